#include "checkpoint/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kMaxSize = 2147483647, kMaxWidth = std::int64_t{1} << 28;

// The keys below "llama.". What is asked for is understood, the rest must be known to be harmless.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}

  [[noreturn]] void refuse(const std::string& key, std::string_view why) const {
    fail(Exit::checkpoint, "{}: {}: {}", file_.path(), key, why);
  }

  template <class T>
  const T* find(const std::string& key) {
    understood_.insert(key);
    const auto it = file_.metadata().find(key);
    if (it == file_.metadata().end()) return nullptr;
    const T* value = std::get_if<T>(&it->second);
    if (!value) refuse(key, "has a value of another type than is read");
    return value;
  }
  std::int64_t size(const std::string& key, std::int64_t otherwise = 0, std::int64_t most = kMaxSize) {
    const auto* value = find<std::int64_t>(key);
    if (!value && otherwise == 0) refuse(key, "is missing");
    if (value && (*value < 1 || *value > most)) refuse(key, fmt::format("{} is not from 1 to {}", *value, most));
    return value ? *value : otherwise;
  }
  double real(const std::string& key, double otherwise = 0) {
    const auto* value = find<double>(key);
    if (!value && otherwise == 0) refuse(key, "is missing");
    if (value && !(std::isfinite(*value) && *value > 0)) refuse(key, fmt::format("{} is no positive number", *value));
    return value ? *value : otherwise;
  }
  void only(const std::string& key, std::int64_t wanted) {
    if (size_or(key, wanted) != wanted) refuse(key, fmt::format("is not {}; that is not implemented", wanted));
  }
  void refuse_rest(std::string_view prefix, const std::set<std::string_view>& harmless) const {
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(prefix) || understood_.contains(key) || harmless.contains(std::string_view(key).substr(prefix.size()))) continue;
      refuse(key, "is not known here, so it may change what the model computes, and is not implemented");
    }
  }

 private:
  std::int64_t size_or(const std::string& key, std::int64_t otherwise) {
    const auto* value = find<std::int64_t>(key);
    return value ? *value : otherwise;
  }

  const GgufFile& file_;
  std::set<std::string> understood_;
};

void check_whole(Keys& keys) {
  const auto* architecture = keys.find<std::string>("general.architecture");
  if (!architecture) keys.refuse("general.architecture", "is missing");
  if (*architecture != "llama") keys.refuse("general.architecture", fmt::format("'{}' is not read, only llama is", *architecture));
  const auto* type = keys.find<std::string>("general.type");
  if (type && *type != "model") keys.refuse("general.type", fmt::format("'{}' is no whole model", *type));
  if (const auto* parts = keys.find<std::int64_t>("split.count"); parts && *parts > 1) {
    keys.refuse("split.count", "the model is split over several files; join them first (llama-gguf-split --merge)");
  }
}

int token_id(Keys& keys, const std::string& name, const GgufVocabulary& vocabulary) {
  const std::string key = "tokenizer.ggml." + name + "_token_id";
  const auto* id = keys.find<std::int64_t>(key);
  if (!id || *id == -1 || *id == 0xFFFFFFFF) return -1;
  if (*id < 0 || static_cast<std::uint64_t>(*id) >= vocabulary.tokens.size()) keys.refuse(key, fmt::format("there is no token {}", *id));
  return static_cast<int>(*id);
}

// Values by token id, or none.
template <class T>
std::vector<T> by_token(Keys& keys, const std::string& key, std::size_t tokens) {
  const auto* value = keys.find<GgufNumbers>(key);
  if (!value) return {};
  auto numbers = numbers_of<T>(*value);
  if (!numbers) keys.refuse(key, "holds numbers of another type than is read");
  if (numbers->size() != tokens) keys.refuse(key, fmt::format("has {} values for {} tokens", numbers->size(), tokens));
  return std::move(*numbers);
}

std::string text_or_empty(const std::string* text) { return text ? *text : ""; }

void read_heads(Keys& keys, ModelConfig& model) {
  const std::string length = "llama.attention.key_length";
  if (!keys.find<std::int64_t>(length) && model.hidden_size % model.num_attention_heads != 0)
    keys.refuse("llama.attention.head_count", "does not divide llama.embedding_length");
  if (model.num_attention_heads % model.num_key_value_heads != 0)
    keys.refuse("llama.attention.head_count_kv", "does not divide llama.attention.head_count");
  if (model.num_attention_heads > kMaxWidth) keys.refuse("llama.attention.head_count", fmt::format("is more than {}", kMaxWidth));
  model.set_head_size(keys.size(length, model.head_size(), kMaxWidth / model.num_attention_heads));
  if (model.head_size() % 2 != 0) keys.refuse("llama.attention.head_count", "makes heads of odd size; rotary embeddings need pairs");
  for (const char* key : {"llama.rope.dimension_count", "llama.attention.value_length"}) keys.only(key, model.head_size());
}

}  // namespace

ModelConfig gguf_model(const GgufFile& file) {
  Keys keys(file);
  check_whole(keys);
  ModelConfig model;
  model.num_hidden_layers = keys.size("llama.block_count");
  model.hidden_size = keys.size("llama.embedding_length", 0, kMaxWidth);
  model.intermediate_size = keys.size("llama.feed_forward_length", 0, kMaxWidth);
  model.num_attention_heads = keys.size("llama.attention.head_count");
  model.num_key_value_heads = keys.size("llama.attention.head_count_kv", model.num_attention_heads);
  model.max_position_embeddings = keys.size("llama.context_length");
  model.rms_norm_eps = keys.real("llama.attention.layer_norm_rms_epsilon");
  model.rope_theta = keys.real("llama.rope.freq_base", 10000);
  const GgufFile::Stored* embedding = file.find("token_embd.weight");
  if (!embedding || embedding->shape.rank != 2) fail(Exit::checkpoint, "{}: has no matrix 'token_embd.weight'", file.path());
  model.vocab_size = keys.size("llama.vocab_size", embedding->shape[0]);
  model.tie_word_embeddings = !file.find("output.weight");
  read_heads(keys, model);
  for (const char* key : {"llama.expert_count", "llama.expert_used_count"}) keys.only(key, 0);
  const auto* scaling = keys.find<std::string>("llama.rope.scaling.type");
  if (scaling && *scaling != "none") keys.refuse("llama.rope.scaling.type", fmt::format("'{}' is not implemented", *scaling));
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"})
    if (keys.real(key, 1) != 1) keys.refuse(key, "is not 1; that is not implemented");
  keys.refuse_rest("llama.", {"tensor_data_layout"});
  return model;
}

GgufVocabulary gguf_vocabulary(const GgufFile& file) {
  const std::string prefix = "tokenizer.ggml.";
  Keys keys(file);
  GgufVocabulary v;
  v.model = text_or_empty(keys.find<std::string>(prefix + "model"));
  if (v.model.empty() || v.model == "no_vocab" || v.model == "none") return {};
  v.pre = text_or_empty(keys.find<std::string>(prefix + "pre"));
  if (const auto* tokens = keys.find<std::vector<std::string>>(prefix + "tokens")) v.tokens = *tokens;
  if (const auto* merges = keys.find<std::vector<std::string>>(prefix + "merges")) v.merges = *merges;
  v.types = by_token<std::int32_t>(keys, prefix + "token_type", v.tokens.size());
  v.scores = by_token<float>(keys, prefix + "scores", v.tokens.size());
  v.bos = token_id(keys, "bos", v);
  v.eos = token_id(keys, "eos", v);
  v.unknown = token_id(keys, "unknown", v);
  // Where a file does not say, llama.cpp goes by the kind of tokenizer.
  const bool spm = v.model == "llama", llama3 = v.pre == "llama-bpe" || v.pre == "llama3" || v.pre == "llama-v3";
  const auto flag = [&](const char* key, bool otherwise) {
    const bool* value = keys.find<bool>(prefix + key);
    return value ? *value : otherwise;
  };
  v.add_bos = flag("add_bos_token", spm || llama3);
  v.add_eos = flag("add_eos_token", false);
  v.add_space_prefix = flag("add_space_prefix", spm);
  v.chat_template = text_or_empty(keys.find<std::string>("tokenizer.chat_template"));
  return v;
}

}  // namespace offramp
