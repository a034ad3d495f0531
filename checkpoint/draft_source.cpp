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

// The draft's configuration: fewer layers, and one matrix for embedding and output where the exit shares a tied one.
ModelConfig shortened(ModelConfig config, const ExitSpec& exit) {
  const bool one_more = exit.head == HeadKind::block || exit.head == HeadKind::attention;
  config.num_hidden_layers = exit.layer + (one_more ? 1 : 0);
  config.tie_word_embeddings = config.tie_word_embeddings && exit.shared_output;
  return config;
}

}  // namespace

DraftSource::DraftSource(TensorSource& source, const ModelConfig& config, std::span<const ExitSpec> exits, int layer)
    : source_(source), config_(shortened(config, exit_at(exits, layer))), entries_(logical_entries(backbone_entries(config_))) {
  const ExitSpec& exit = exit_at(exits, layer);
  std::map<std::string, Shape> there;
  for (const TensorEntry& entry : source.entries()) there[entry.name] = entry.shape;
  for (const TensorEntry& entry : entries_) {
    const Origin origin = origin_of(entry.name, config, exit);
    const auto it = there.find(origin.name);
    const bool sound = origin.name.empty() || (it != there.end() && it->second == entry.shape);
    OFFRAMP_CHECK(sound, "[DraftSource] {} {} would come from {}, which is not there", entry.name, to_text(entry.shape), origin.name);
    origins_[entry.name] = origin;
  }
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
