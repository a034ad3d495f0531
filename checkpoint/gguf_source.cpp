#include "checkpoint/gguf_source.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint/gguf_metadata.h"
#include "checkpoint/nearest_name.h"
#include "models/model.h"
#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr const char* kRopeDivisors = "rope_freqs.weight";

// Stored as f32 and made in f32 by others: a few roundings apart.
bool equal(std::span<const float> a, std::span<const float> b) {
  constexpr float kTolerance = 1e-5f;
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) { return std::fabs(x - y) <= kTolerance * std::fabs(y); });
}

}  // namespace

std::int64_t GgufEntry::row_there(std::int64_t row) const {
  if (heads == 0) return row;
  const std::int64_t d = logical.shape[0] / heads, half = d / 2, head = row / d, in_head = row % d;
  return head * d + in_head % half * 2 + in_head / half;
}

std::vector<GgufEntry> gguf_entries(const ModelConfig& model) {
  const Names names(model);
  const std::int64_t hidden = model.hidden_size, inner = model.intermediate_size, head = model.head_size();
  const std::int64_t queries = model.num_attention_heads * head, keys = model.num_key_value_heads * head;
  std::vector<GgufEntry> entries;
  const auto add = [&](const std::string& name, const std::string& module, Shape shape, std::int64_t heads = 0) {
    entries.push_back({name + ".weight", {weight_of(module), shape}, heads});
  };
  add("token_embd", names.embedding, {model.vocab_size, hidden});
  for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerNames layer = names.below(names.layer(i));
    const std::string block = fmt::format("blk.{}.", i);
    add(block + "attn_norm", layer.first_norm, {hidden});
    add(block + "attn_q", layer.query, {queries, hidden}, model.num_attention_heads);
    add(block + "attn_k", layer.key, {keys, hidden}, model.num_key_value_heads);
    add(block + "attn_v", layer.value, {keys, hidden});
    add(block + "attn_output", layer.attention_output, {hidden, queries});
    add(block + "ffn_norm", layer.second_norm, {hidden});
    add(block + "ffn_gate", layer.gate, {inner, hidden});
    add(block + "ffn_up", layer.up, {inner, hidden});
    add(block + "ffn_down", layer.down, {hidden, inner});
  }
  add("output_norm", names.final_norm, {hidden});
  if (!model.tie_word_embeddings) add("output", names.output, {model.vocab_size, hidden});
  return entries;
}

std::vector<float> rope_divisors(const ModelConfig& model) {
  const RopeFrequencies plain{.theta = model.rope_theta}, scaled = rope_frequencies(model);
  std::vector<float> divisors;
  for (std::int64_t i = 0; i < model.head_size() / 2; ++i)
    divisors.push_back(static_cast<float>(plain.at(i, model.head_size()) / scaled.at(i, model.head_size())));
  return divisors;
}

GgufSource::GgufSource(const std::string& path) : file_(path), config_(gguf_model(file_)), vocabulary_(gguf_vocabulary(file_)) {
  // A count that is no model's would make a table of any size.
  if (static_cast<std::uint64_t>(config_.num_hidden_layers) > file_.tensors().size()) {
    fail(Exit::checkpoint, "{}: llama.block_count: {} layers, but there are only {} tensors", path, config_.num_hidden_layers,
         file_.tensors().size());
  }
  if (!vocabulary_.tokens.empty() && static_cast<std::int64_t>(vocabulary_.tokens.size()) != config_.vocab_size) {
    fail(Exit::checkpoint, "{}: has {} tokens, but token_embd.weight has rows for {}", path, vocabulary_.tokens.size(), config_.vocab_size);
  }
  entries_ = gguf_entries(config_);
  check_tensors();
  read_rope_scaling();
  for (const GgufEntry& entry : entries_) places_[entry.logical.name] = &entry;
}

void GgufSource::check_tensors() {
  std::vector<std::string> there;
  std::set<std::string, std::less<>> expected;
  for (const auto& tensor : file_.tensors()) there.push_back(tensor.name);
  for (const GgufEntry& entry : entries_) expected.insert(entry.name);
  for (const GgufEntry& entry : entries_) {
    const GgufFile::Stored* tensor = file_.find(entry.name);
    if (!tensor) fail(Exit::checkpoint, "{}: '{}' is missing{}", file_.path(), entry.name, nearest_hint(entry.name, there, expected));
    if (tensor->shape != entry.logical.shape) {
      fail(Exit::checkpoint, "{}: '{}' is {}, by the file's keys it would be {}", file_.path(), entry.name, to_text(tensor->shape),
           to_text(entry.logical.shape));
    }
  }
  for (const std::string& name : there) {
    if (expected.contains(name) || name == kRopeDivisors) continue;
    fail(Exit::checkpoint, "{}: '{}' is no tensor of this model{}", file_.path(), name,
         nearest_hint(name, std::vector<std::string>(expected.begin(), expected.end())));
  }
}

// The file has what the frequencies are divided by, not the settings that this comes from: those of our own files are in keys, others
// have the settings that Llama 3.1 and 3.2 were released with.
void GgufSource::read_rope_scaling() {
  const GgufFile::Stored* tensor = file_.find(kRopeDivisors);
  if (!tensor) return;
  const std::int64_t pairs = config_.head_size() / 2;
  if (tensor->shape != Shape{pairs} || std::string_view(tensor->type->name) != "F32") {
    fail(Exit::checkpoint, "{}: '{}' is {} of {}, wanted {} of F32", file_.path(), kRopeDivisors, to_text(tensor->shape),
         tensor->type->name, to_text(Shape{pairs}));
  }
  std::vector<float> divisors(static_cast<std::size_t>(pairs));
  file_.read(*tensor, 0, divisors);
  if (equal(divisors, rope_divisors(config_))) return;
  RopeScaling scaling{.rope_type = "llama3", .factor = *std::max_element(divisors.begin(), divisors.end())};
  const auto& keys = file_.metadata();
  const auto setting = [&](const char* key, auto& to) {
    const auto it = keys.find(key);
    if (it == keys.end()) return;
    if (const auto* value = std::get_if<std::remove_reference_t<decltype(to)>>(&it->second)) to = *value;
  };
  setting(kGgufRopeFactor, scaling.factor);
  setting(kGgufRopeLow, scaling.low_freq_factor);
  setting(kGgufRopeHigh, scaling.high_freq_factor);
  setting(kGgufRopeOriginal, scaling.original_max_position_embeddings);
  ModelConfig stretched = config_;
  stretched.rope_scaling = scaling;
  const bool sound = std::isfinite(scaling.factor) && scaling.factor >= 1 && scaling.low_freq_factor > 0 &&
                     scaling.high_freq_factor > scaling.low_freq_factor && scaling.original_max_position_embeddings > 0;
  if (!sound || !equal(divisors, rope_divisors(stretched))) {
    fail(Exit::checkpoint, "{}: '{}' changes the rotary frequencies in another way than Llama 3's, which is not implemented", file_.path(),
         kRopeDivisors);
  }
  config_ = stretched;
}

std::vector<TensorEntry> GgufSource::entries() const {
  std::vector<TensorEntry> all;
  for (const GgufEntry& entry : entries_) all.push_back(entry.logical);
  return all;
}

void GgufSource::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  const auto it = places_.find(name);
  OFFRAMP_CHECK(it != places_.end(), "[GgufSource] there is no tensor {}", name);
  const GgufEntry& entry = *it->second;
  const GgufFile::Stored& tensor = *file_.find(entry.name);
  OFFRAMP_CHECK(first >= 0 && count >= 0 && first + count <= tensor.shape.elements(), "[GgufSource] {} {} has no elements {} + {}", name,
                to_text(tensor.shape), first, count);
  if (entry.heads == 0) return file_.read(tensor, first, std::span(out, static_cast<std::size_t>(count)));
  const std::int64_t columns = tensor.shape[1];
  for (std::int64_t at = first; at < first + count;) {
    const std::int64_t row = at / columns, end = std::min(first + count, (row + 1) * columns);
    file_.read(tensor, entry.row_there(row) * columns + at % columns, std::span(out + (at - first), static_cast<std::size_t>(end - at)));
    at = end;
  }
}

}  // namespace offramp
