#include "checkpoint/draft_source.h"

#include <algorithm>

#include "checkpoint/huggingface.h"
#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

const ExitSpec& exit_at(std::span<const ExitSpec> exits, int layer) {
  const auto it = std::find_if(exits.begin(), exits.end(), [&](const ExitSpec& exit) { return exit.layer == layer; });
  if (it == exits.end()) {
    std::vector<int> layers;
    for (const ExitSpec& exit : exits) layers.push_back(exit.layer);
    fail(Exit::checkpoint, "there is no exit at layer {}; the model has exits at: {}", layer,
         layers.empty() ? "none" : fmt::format("{}", fmt::join(layers, ", ")));
  }
  if (it->head == HeadKind::bare) {
    fail(Exit::checkpoint, "the exit at layer {} is bare: no stock model reads a layer without a norm, so it cannot be exported as one",
         layer);
  }
  return *it;
}

}  // namespace

ModelConfig draft_config(ModelConfig config, std::span<const ExitSpec> exits, int layer) {
  const ExitSpec& exit = exit_at(exits, layer);
  const bool one_more = exit.head == HeadKind::block || exit.head == HeadKind::attention;
  config.num_hidden_layers = exit.layer + (one_more ? 1 : 0);
  config.tie_word_embeddings = config.tie_word_embeddings && exit.shared_output;
  return config;
}

DraftSource::DraftSource(TensorSource& source, const ModelConfig& config, std::span<const ExitSpec> exits, int layer, Exits kept)
    : source_(source), config_(draft_config(config, exits, layer)) {
  const ExitSpec& exit = exit_at(exits, layer);
  for (const TensorEntry& entry : source.entries()) there_[entry.name] = entry.shape;
  for (const TensorEntry& entry : logical_entries(backbone_entries(config_))) take(entry, origin_of(entry.name, config, exit));
  if (kept == Exits::below) keep_below(exits, exit, config);
}

void DraftSource::keep_below(std::span<const ExitSpec> exits, const ExitSpec& exit, const ModelConfig& whole) {
  for (const ExitSpec& below : exits) {
    if (below.layer >= exit.layer) continue;
    exits_.push_back(below);
    exits_.back().shared_output = below.shared_output && exit.shared_output;
    exits_.back().shared_norm = below.shared_norm && exit.shared_norm;
    const Names theirs(whole);
    for (const TensorEntry& entry : logical_entries(exit_entries(config_, std::span(&exits_.back(), 1)))) {
      std::string origin = entry.name;
      if (below.shared_norm) moved(origin, Names::exit_norm(below.layer), theirs.final_norm);
      if (below.shared_output) moved(origin, Names::exit_output(below.layer), theirs.output);
      take(entry, {origin});
    }
  }
}

void DraftSource::take(const TensorEntry& entry, const Origin& origin) {
  const auto it = there_.find(origin.name);
  const bool sound = origin.name.empty() || (it != there_.end() && it->second == entry.shape);
  OFFRAMP_CHECK(sound, "[DraftSource] {} {} would come from {}, which is not there", entry.name, to_text(entry.shape), origin.name);
  entries_.push_back(entry);
  origins_[entry.name] = origin;
}

DraftSource::Origin DraftSource::origin_of(const std::string& name, const ModelConfig& whole, const ExitSpec& exit) const {
  const Names ours(config_), theirs(whole);
  const std::string last = theirs.layer(exit.layer - 1), extra = theirs.layer(exit.layer);
  std::string origin = name;
  if (exit.head == HeadKind::attention) {
    const LayerNames layer = theirs.below(extra);
    if (name == weight_of(layer.second_norm)) return {"", 1};
    for (const std::string& absent : {layer.second_norm, layer.gate, layer.up, layer.down})
      if (!absent.empty() && name.starts_with(absent + ".")) return {"", 0};
  }
  if (moved(origin, extra, Names::exit_block(exit.layer))) return {origin};
  if (exit.head == HeadKind::mlp && moved(origin, last + ".mlp", Names::exit(exit.layer) + ".mlp")) return {origin};
  if (!exit.shared_norm && moved(origin, ours.final_norm, Names::exit_norm(exit.layer))) return {origin};
  if (config_.tie_word_embeddings || name != weight_of(ours.output)) return {name};
  return {weight_of(exit.shared_output ? theirs.output : Names::exit_output(exit.layer))};
}

void DraftSource::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  const auto it = origins_.find(name);
  OFFRAMP_CHECK(it != origins_.end(), "[DraftSource] there is no tensor {}", name);
  if (it->second.name.empty()) {
    std::fill_n(out, count, it->second.value);
  } else {
    source_.read(it->second.name, first, count, out);
  }
}

}  // namespace offramp
