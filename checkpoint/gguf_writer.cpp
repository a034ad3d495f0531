#include "checkpoint/gguf_writer.h"

#include <algorithm>

#include "checkpoint/file.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/gguf_source.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::uint64_t kAlignment = 32;
constexpr std::int64_t kPart = std::int64_t{1} << 20;  // elements at a time

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// The bytes of a header's parts. Types by number are the format's: u32 4, i32 5, f32 6, bool 7, text 8, array 9, u64 10, f64 12.
class Header {
 public:
  template <class T>
  void raw(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(std::string_view value) {
    raw<std::uint64_t>(value.size());
    bytes_.append(value);
  }
  template <class T>
  void number(std::string_view key, std::uint32_t type, T value) {
    begin(key, type);
    raw(value);
  }
  void u32(std::string_view key, std::int64_t value) { number(key, 4, static_cast<std::uint32_t>(value)); }
  void f32(std::string_view key, double value) { number(key, 6, static_cast<float>(value)); }
  void f64(std::string_view key, double value) { number(key, 12, value); }
  void flag(std::string_view key, bool value) { number(key, 7, static_cast<std::uint8_t>(value)); }
  void word(std::string_view key, std::string_view value) {
    begin(key, 8);
    text(value);
  }
  template <class T>
  void list(std::string_view key, std::uint32_t type, const std::vector<T>& values) {
    begin(key, 9);
    raw(type);
    raw<std::uint64_t>(values.size());
    for (const T& value : values) {
      if constexpr (std::is_same_v<T, std::string>)
        text(value);
      else
        raw(value);
    }
  }
  std::uint64_t keys() const { return keys_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(std::string_view key, std::uint32_t type) {
    ++keys_;
    text(key);
    raw(type);
  }
  std::uint64_t keys_ = 0;
  std::string bytes_;
};

void model_keys(Header& header, const ModelConfig& model, FloatType type) {
  header.word("general.architecture", "llama");
  header.word("general.type", "model");
  header.u32("general.file_type", type == FloatType::f32 ? 0 : type == FloatType::f16 ? 1 : 32);  // what most tensors are
  header.u32("llama.block_count", model.num_hidden_layers);
  header.u32("llama.context_length", model.max_position_embeddings);
  header.u32("llama.embedding_length", model.hidden_size);
  header.u32("llama.feed_forward_length", model.intermediate_size);
  header.u32("llama.attention.head_count", model.num_attention_heads);
  header.u32("llama.attention.head_count_kv", model.num_key_value_heads);
  if (model.head_dim > 0) header.u32("llama.attention.key_length", model.head_dim), header.u32("llama.attention.value_length", model.head_dim);
  header.f32("llama.attention.layer_norm_rms_epsilon", model.rms_norm_eps);
  header.u32("llama.rope.dimension_count", model.head_size());
  header.f32("llama.rope.freq_base", model.rope_theta);
  header.u32("llama.vocab_size", model.vocab_size);
  if (!model.rope_scaling.llama3()) return;
  header.f64(kGgufRopeFactor, model.rope_scaling.factor);
  header.f64(kGgufRopeLow, model.rope_scaling.low_freq_factor);
  header.f64(kGgufRopeHigh, model.rope_scaling.high_freq_factor);
  header.number(kGgufRopeOriginal, 10, static_cast<std::uint64_t>(model.rope_scaling.original_max_position_embeddings));
}

// As many tokens as the model has; the texts of those that fill up must differ from one another.
GgufVocabulary filled(GgufVocabulary vocabulary, const ModelConfig& model, const std::string& path) {
  const auto size = static_cast<std::size_t>(model.vocab_size);
  const std::size_t known = vocabulary.tokens.size();
  if (known > size) {
    fail(Exit::checkpoint, "{}: the tokenizer has {} tokens, the model's vocab_size is {}; it belongs to another model", path, known, size);
  }
  vocabulary.types.resize(known, GgufVocabulary::normal);
  if (vocabulary.model == "llama") vocabulary.scores.resize(known, 0);
  for (std::size_t id = known; id < size; ++id) {
    vocabulary.tokens.push_back(fmt::format("[PAD{}]", id));
    vocabulary.types.push_back(GgufVocabulary::unused);
    if (vocabulary.model == "llama") vocabulary.scores.push_back(-10000);
  }
  return vocabulary;
}

void tokenizer_keys(Header& header, const GgufVocabulary& vocabulary) {
  if (vocabulary.tokens.empty()) return header.word("tokenizer.ggml.model", "no_vocab");
  header.word("tokenizer.ggml.model", vocabulary.model);
  header.word("tokenizer.ggml.pre", vocabulary.pre.empty() ? "default" : vocabulary.pre);
  header.list("tokenizer.ggml.tokens", 8, vocabulary.tokens);
  if (!vocabulary.scores.empty()) header.list("tokenizer.ggml.scores", 6, vocabulary.scores);
  header.list("tokenizer.ggml.token_type", 5, vocabulary.types);
  if (vocabulary.model != "llama") header.list("tokenizer.ggml.merges", 8, vocabulary.merges);
  for (const auto& [name, id] : {std::pair{"bos", vocabulary.bos}, {"eos", vocabulary.eos}, {"unknown", vocabulary.unknown}}) {
    if (id >= 0) header.u32(fmt::format("tokenizer.ggml.{}_token_id", name), id);
  }
  header.flag("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  header.flag("tokenizer.ggml.add_eos_token", vocabulary.add_eos);
  if (vocabulary.model == "llama") header.flag("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix);
  if (!vocabulary.chat_template.empty()) header.word("tokenizer.chat_template", vocabulary.chat_template);
}

FloatType stored_type(const GgufEntry& entry, FloatType type) { return entry.logical.shape.rank == 1 ? FloatType::f32 : type; }

std::uint64_t stored_bytes(const GgufEntry& entry, FloatType type) {
  return static_cast<std::uint64_t>(entry.logical.shape.elements()) * size_of(stored_type(entry, type));
}

void tensor_infos(Header& header, const std::vector<GgufEntry>& entries, FloatType type) {
  std::uint64_t offset = 0;
  for (const GgufEntry& entry : entries) {
    const Shape& shape = entry.logical.shape;
    const FloatType stored = stored_type(entry, type);
    header.text(entry.name);
    header.raw(static_cast<std::uint32_t>(shape.rank));
    for (int i = shape.rank; i-- > 0;) header.raw(static_cast<std::uint64_t>(shape[i]));
    header.raw<std::uint32_t>(stored == FloatType::f32 ? 0 : stored == FloatType::f16 ? 1 : 30);
    header.raw(offset);
    offset = aligned(offset + stored_bytes(entry, type));
  }
}

// Where a row of the file is in the logical tensor: row_there() turned round.
std::int64_t row_here(const GgufEntry& entry, std::int64_t row) {
  const std::int64_t d = entry.logical.shape[0] / entry.heads, in_head = row % d;
  return row / d * d + in_head % 2 * (d / 2) + in_head / 2;
}

void write_tensor(OutputFile& file, const GgufEntry& entry, TensorSource& source, FloatType type) {
  const std::string& name = entry.logical.name;
  const Shape& shape = entry.logical.shape;
  const std::int64_t elements = shape.elements(), each = entry.heads == 0 ? std::min(kPart, elements) : shape[1];
  std::vector<float> values(static_cast<std::size_t>(each));
  for (std::int64_t at = 0; at < elements; at += each) {
    const std::int64_t count = std::min(each, elements - at), first = entry.heads == 0 ? at : row_here(entry, at / each) * each;
    source.read(name, first, count, values.data());
    write_values(file, stored_type(entry, type), std::span(values).first(static_cast<std::size_t>(count)), name);
  }
}

void pad(OutputFile& file, std::uint64_t bytes) {
  const std::string zeros(aligned(bytes) - bytes, '\0');
  file.write(zeros.data(), zeros.size());
}

}  // namespace

void write_gguf(const std::string& path, const ModelConfig& model, TensorSource& source, const GgufVocabulary& vocabulary, FloatType type) {
  if (model.gpt2()) fail(Exit::checkpoint, "{}: only Llamas are written as GGUF; export a GPT-2 with `offramp export hf`", path);
  Header keys;
  model_keys(keys, model, type);
  tokenizer_keys(keys, vocabulary.tokens.empty() ? vocabulary : filled(vocabulary, model, path));
  std::vector<GgufEntry> entries = gguf_entries(model);
  const std::vector<float> divisors = model.rope_scaling.llama3() ? rope_divisors(model) : std::vector<float>{};
  const auto count = static_cast<std::int64_t>(divisors.size());
  if (count > 0) entries.push_back({"rope_freqs.weight", {"", {count}}});
  Header infos;
  tensor_infos(infos, entries, type);

  Header begin;
  for (const char c : {'G', 'G', 'U', 'F'}) begin.raw(c);
  begin.raw<std::uint32_t>(3);
  begin.raw<std::uint64_t>(entries.size());
  begin.raw<std::uint64_t>(keys.keys());
  OutputFile file(path);
  for (const Header* part : {&begin, &keys, &infos}) file.write(part->bytes().data(), part->bytes().size());
  pad(file, begin.bytes().size() + keys.bytes().size() + infos.bytes().size());
  for (const GgufEntry& entry : entries) {
    if (entry.logical.name.empty())
      file.write(divisors.data(), divisors.size() * sizeof(float));
    else
      write_tensor(file, entry, source, type);
    pad(file, stored_bytes(entry, type));
  }
  file.finish();
}

}  // namespace offramp
