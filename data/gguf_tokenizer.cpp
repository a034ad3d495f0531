#include "data/gguf_tokenizer.h"

#include <algorithm>
#include <bit>
#include <string_view>
#include <unordered_set>

#include "data/json_file.h"
#include "data/publish.h"
#include "data/unicode.h"
#include "tensor/check.h"

namespace offramp {
namespace {

enum Type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

// ---- how text is cut ----

constexpr std::string_view kContractions = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))";
constexpr std::string_view kMarksAndSpaces = R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Cutting {
  std::vector<std::string_view> names;
  std::vector<std::string> splits;  // expressions, each inside the pieces of the one before; none: see the next two
  bool single_digits = false;       // digits by themselves
  bool gpt2 = false;                // then GPT-2's own expression
  bool ignore_merges = false, compose = false;
};

std::string words_and_numbers(std::string_view number) {
  return fmt::format(R"({}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}|{})", kContractions, number, kMarksAndSpaces);
}

std::string gpt_4o() {
  const std::string_view upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  const std::string word = R"([^\r\n\p{L}\p{N}]?)";
  return fmt::format(R"({0}{1}*{2}+{3}?|{0}{1}+{2}*{3}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)", word,
                     upper, lower, kContractions);
}

// The names as llama.cpp's converter gives them.
std::vector<Cutting> known_cuttings() {
  return {
      {.names = {"gpt-2", "mpt", "olmo", "jais", "phi-2", "trillion", "granite-docling"}, .gpt2 = true},
      {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}, .single_digits = true, .gpt2 = true},
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3"}, .splits = {words_and_numbers("\\p{N}{1,3}")}, .ignore_merges = true},
      {.names = {"dbrx", "smaug-bpe"}, .splits = {words_and_numbers("\\p{N}{1,3}")}},
      {.names = {"qwen2", "deepseek-r1-qwen"}, .splits = {words_and_numbers("\\p{N}")}, .compose = true},
      {.names = {"stablelm2"}, .splits = {words_and_numbers("\\p{N}")}},
      {.names = {"gpt-4o", "llama4"}, .splits = {gpt_4o()}},
      {.names = {"default", ""},
       .splits = {R"([\p{P}\$\+<=>\^~\|]+)", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", R"(\p{N}+)",
                  "[0-9][0-9][0-9]"}},
  };
}

Cutting cutting_of(const GgufVocabulary& v, const std::string& path) {
  std::vector<std::string_view> names;
  for (Cutting& cutting : known_cuttings()) {
    if (std::find(cutting.names.begin(), cutting.names.end(), v.pre) != cutting.names.end()) return std::move(cutting);
    names.insert(names.end(), cutting.names.begin(), cutting.names.end());
  }
  std::erase(names, "");
  fail(Exit::checkpoint, "{}: tokenizer.ggml.pre is '{}', which is not supported; these are: {}", path, v.pre, fmt::join(names, ", "));
}

Json pre_tokenizer(const Cutting& cutting) {
  Json steps = Json::array();
  for (const std::string& pattern : cutting.splits)
    steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  if (cutting.single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", cutting.gpt2}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

// ---- gpt2 ----

std::int32_t type_of(const GgufVocabulary& v, std::size_t id) { return v.types.empty() ? Type::normal : v.types[id]; }

bool is_added(std::int32_t type) { return type == Type::unknown || type == Type::control || type == Type::user_defined; }

Json added_tokens(const GgufVocabulary& v) {
  Json all = Json::array();
  for (std::size_t id = 0; id < v.tokens.size(); ++id) {
    const std::int32_t type = type_of(v, id);
    if (!is_added(type)) continue;
    all.push_back({{"id", id},
                   {"content", v.tokens[id]},
                   {"single_word", false},
                   {"lstrip", false},
                   {"rstrip", false},
                   {"normalized", false},
                   {"special", type != Type::user_defined}});
  }
  return all;
}

// What AutoTokenizer puts around a text: the begin token, the end token.
Json post_processor(const GgufVocabulary& v) {
  const bool begins = v.add_bos && v.bos >= 0, ends = v.add_eos && v.eos >= 0;
  if (!begins && !ends) return nullptr;
  Json special = Json::object(), single = Json::array(), pair = Json::array();
  const auto mark = [&](Json& to, std::int32_t id, int type) {
    const std::string& token = v.tokens[static_cast<std::size_t>(id)];
    to.push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
    special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  const auto text = [&](Json& to, const char* name, int type) {
    if (begins) mark(to, v.bos, type);
    to.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    if (ends) mark(to, v.eos, type);
  };
  text(single, "A", 0);
  text(pair, "A", 0);
  text(pair, "B", 1);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

std::string vocabulary_json(const GgufVocabulary& v) {  // by id, a line each
  std::string all;
  for (std::size_t id = 0; id < v.tokens.size(); ++id) all += fmt::format("{}{}:{}", id ? ",\n" : "", Json(v.tokens[id]).dump(), id);
  return all;
}

std::string merges_json(const GgufVocabulary& v) {
  std::string all;
  for (const std::string& merge : v.merges) all += (all.empty() ? "" : ",\n") + Json(merge).dump();
  return all;
}

std::string tokenizer_json(const GgufVocabulary& v, const Cutting& cutting) {
  const Json normalizer = cutting.compose ? Json{{"type", "NFC"}} : Json();
  return fmt::format(
      "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":{},\n\"normalizer\":{},\n\"pre_tokenizer\":{},\n"
      "\"post_processor\":{},\n\"decoder\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}},"
      "\n"
      "\"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
      "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":{},\n\"vocab\":{{\n{}}},\n\"merges\":[\n{}]}}}}\n",
      added_tokens(v).dump(), normalizer.dump(), pre_tokenizer(cutting).dump(), post_processor(v).dump(), cutting.ignore_merges,
      vocabulary_json(v), merges_json(v));
}

std::string config_json(const GgufVocabulary& v) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", v.add_bos && v.bos >= 0},
                 {"add_eos_token", v.add_eos && v.eos >= 0},
                 {"add_prefix_space", false},
                 {"clean_up_tokenization_spaces", false}};
  for (const auto& [key, id] : {std::pair{"bos_token", v.bos}, {"eos_token", v.eos}, {"unk_token", v.unknown}, {"pad_token", v.padding}})
    if (id >= 0) config[key] = v.tokens[static_cast<std::size_t>(id)];
  if (!v.chat_template.empty()) config["chat_template"] = v.chat_template;
  return config.dump(2) + "\n";
}

// ---- llama: sentencepiece_model.proto, as its library reads it ----

void add_varint(std::string& to, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += static_cast<char>(0x80 | (value & 0x7F));
  to += static_cast<char>(value);
}

void add_number(std::string& to, unsigned field, std::int64_t value) {
  add_varint(to, field << 3);
  add_varint(to, static_cast<std::uint64_t>(value));
}

void add_bytes(std::string& to, unsigned field, std::string_view bytes) {
  add_varint(to, field << 3 | 2);
  add_varint(to, bytes.size());
  to += bytes;
}

void add_float(std::string& to, unsigned field, float value) {
  add_varint(to, field << 3 | 5);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) to += static_cast<char>(bits >> shift & 0xFF);
}

std::string sentencepiece_model(const GgufVocabulary& v) {
  std::string model, trainer, normalizer;
  for (std::size_t id = 0; id < v.tokens.size(); ++id) {
    std::string piece;
    add_bytes(piece, 1, v.tokens[id]);
    add_float(piece, 2, v.scores[id]);
    add_number(piece, 3, type_of(v, id));
    add_bytes(model, 1, piece);
  }
  add_number(trainer, 3, 2);  // model_type BPE
  add_number(trainer, 4, std::ssize(v.tokens));
  add_number(trainer, 35, std::find(v.types.begin(), v.types.end(), std::int32_t{Type::byte}) != v.types.end());  // byte_fallback
  for (const auto& [field, id] : {std::pair{40u, v.unknown}, {41u, v.bos}, {42u, v.eos}, {43u, v.padding}}) add_number(trainer, field, id);
  for (const auto& [field, id] : {std::pair{45u, v.unknown}, {46u, v.bos}, {47u, v.eos}, {48u, v.padding}})
    if (id >= 0) add_bytes(trainer, field, v.tokens[static_cast<std::size_t>(id)]);
  add_bytes(normalizer, 1, "identity");
  add_number(normalizer, 3, v.add_space_prefix);
  add_number(normalizer, 4, 0);  // spaces are kept
  add_number(normalizer, 5, 1);  // and written U+2581
  add_bytes(model, 2, trainer);
  add_bytes(model, 3, normalizer);
  return model;
}

// ---- both ----

void check(const GgufVocabulary& v, const std::string& path) {
  if (v.tokens.empty()) fail(Exit::checkpoint, "{}: has no tokenizer.ggml.tokens", path);
  if (!v.types.empty() && v.types.size() != v.tokens.size())
    fail(Exit::checkpoint, "{}: {} token types for {} tokens", path, v.types.size(), v.tokens.size());
  std::unordered_set<std::string_view> seen;
  for (std::size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string& token = v.tokens[id];
    if (token.empty() || valid_utf8(token) != token.size()) fail(Exit::checkpoint, "{}: token {} is empty or not UTF-8", path, id);
    if (!seen.insert(token).second) fail(Exit::checkpoint, "{}: token {}, {}, is there twice", path, id, token);
    if (const auto type = type_of(v, id); type < Type::normal || type > Type::byte)
      fail(Exit::checkpoint, "{}: token {} is of type {}, which there is not", path, id, type);
  }
  for (const std::string& merge : v.merges)
    if (valid_utf8(merge) != merge.size()) fail(Exit::checkpoint, "{}: a merge is not UTF-8", path);
  if (valid_utf8(v.chat_template) != v.chat_template.size()) fail(Exit::checkpoint, "{}: the chat template is not UTF-8", path);
  for (std::int32_t id : {v.bos, v.eos, v.unknown, v.padding})
    if (id < -1 || id >= std::ssize(v.tokens)) fail(Exit::checkpoint, "{}: {} is no id of its {} tokens", path, id, v.tokens.size());
}

}  // namespace

TokenizerFiles tokenizer_files(const GgufVocabulary& v, const std::string& path) {
  check(v, path);
  if (v.model == "gpt2") return {"tokenizer.json", tokenizer_json(v, cutting_of(v, path)), config_json(v)};
  if (v.model != "llama")
    fail(Exit::checkpoint, "{}: tokenizer.ggml.model is '{}', which is not supported (gpt2 and llama are)", path, v.model);
  if (v.scores.size() != v.tokens.size())
    fail(Exit::checkpoint, "{}: {} token scores for {} tokens", path, v.scores.size(), v.tokens.size());
  return {"tokenizer.model", sentencepiece_model(v), ""};
}

void write_tokenizer_files(const TokenizerFiles& files, const std::filesystem::path& directory) {
  publish_bytes(directory / files.name, files.bytes);
  if (!files.config.empty()) publish_bytes(directory / "tokenizer_config.json", files.config);
}

}  // namespace offramp
