#include "checkpoint/gguf_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <unordered_map>

#include "checkpoint/input_file.h"
#include "checkpoint/json_file.h"
#include "data/sentencepiece_model.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;
using Type = GgufVocabulary::Type;

constexpr std::uint64_t kMostBytes = 100'000'000;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 22;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(Exit::checkpoint, "{}: {}, so llama.cpp would make other tokens of a text; export to Hugging Face's format instead", path, why);
}

bool there(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

std::string word_at(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}
bool flag_at(const Json& json, const char* key, bool otherwise = false) {
  return json.is_object() && json.contains(key) && json[key].is_boolean() ? json[key].get<bool>() : otherwise;
}

int id_of(const GgufVocabulary& vocabulary, std::string_view token) {
  const auto it = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
  return it == vocabulary.tokens.end() || token.empty() ? -1 : static_cast<int>(it - vocabulary.tokens.begin());
}

// ---- SentencePiece

GgufVocabulary of_sentencepiece(const std::string& path) {
  const SentencePieceModel model = parse_sentencepiece_model(read_file(path, kMostBytes), path);
  if (!model.is_bpe || model.normalises) refuse(path, "is no SentencePiece BPE model that leaves texts as they are");
  GgufVocabulary v{.model = "llama", .pre = "default", .add_space_prefix = model.adds_prefix};
  for (const auto& piece : model.pieces) {
    v.tokens.push_back(piece.text);
    v.scores.push_back(piece.score);
    v.types.push_back(static_cast<std::int32_t>(piece.kind));  // the format's numbers are SentencePiece's
  }
  const auto unknown = std::find(v.types.begin(), v.types.end(), std::int32_t{Type::unknown_token});
  if (unknown != v.types.end()) v.unknown = static_cast<int>(unknown - v.types.begin());
  v.bos = id_of(v, "<s>");
  v.eos = id_of(v, "</s>");
  return v;
}

// ---- tokenizer.json

// How GPT-2 writes the 256 bytes as characters: itself where that can be seen, else the next one from U+0100 on.
std::string visible_byte(int byte) {
  const auto seen = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!seen(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += seen(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

std::optional<int> byte_piece(std::string_view text) {
  for (int byte = 0; byte < 256; ++byte) {
    if (text == fmt::format("<0x{:02X}>", byte)) return byte;
  }
  return std::nullopt;
}

// Tokens by id, and their kinds; ids that nothing is said of are unused.
void read_tokens(const std::string& path, const Json& json, GgufVocabulary& v) {
  const Json& vocabulary = json["model"]["vocab"];
  const Json added = json.contains("added_tokens") && json["added_tokens"].is_array() ? json["added_tokens"] : Json::array();
  const auto sound = [](const Json& id) { return id.is_number_unsigned() && id.get<std::uint64_t>() < kMostTokens; };
  std::int64_t size = 0;
  for (const auto& [text, id] : vocabulary.items()) {
    if (!sound(id)) fail(Exit::checkpoint, "{}: the id of '{}' is no id", path, text);
    size = std::max(size, id.get<std::int64_t>() + 1);
  }
  for (const Json& token : added) {
    if (!token.is_object() || !token.contains("id") || !sound(token["id"])) fail(Exit::checkpoint, "{}: an added token has no id", path);
    size = std::max(size, token["id"].get<std::int64_t>() + 1);
  }
  // Texts must be there: ids far apart would make a large list of nothing.
  if (size > static_cast<std::int64_t>(vocabulary.size() + added.size()) * 2 + 1024) fail(Exit::checkpoint, "{}: its ids have holes", path);
  for (std::int64_t id = 0; id < size; ++id) v.tokens.push_back(fmt::format("[PAD{}]", id));
  v.types.assign(v.tokens.size(), Type::unused);
  for (const auto& [text, id] : vocabulary.items()) {
    v.tokens[id.get<std::size_t>()] = text;
    v.types[id.get<std::size_t>()] = Type::normal;
  }
  for (const Json& token : added) {
    v.tokens[token["id"].get<std::size_t>()] = word_at(token, "content");
    v.types[token["id"].get<std::size_t>()] = flag_at(token, "special") ? Type::control : Type::user_defined;
  }
}

// "a b", whichever of its two forms the file has.
std::vector<std::string> read_merges(const std::string& path, const Json& model) {
  std::vector<std::string> merges;
  if (!model.contains("merges") || !model["merges"].is_array()) return merges;
  for (const Json& merge : model["merges"]) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      fail(Exit::checkpoint, "{}: a merge is no pair of texts", path);
    }
  }
  return merges;
}

// Steps of a Sequence, or the one.
std::vector<Json> steps_of(const Json& json, const char* list) {
  if (json.is_null()) return {};
  if (word_at(json, "type") != "Sequence") return {json};
  return json.contains(list) && json[list].is_array() ? json[list].get<std::vector<Json>>() : std::vector<Json>{};
}

std::string pattern_of(const Json& split) { return split.contains("pattern") ? word_at(split["pattern"], "Regex") : ""; }

// llama.cpp's name for the way in which a byte-level tokenizer cuts texts.
std::string pre_tokenizer(const std::string& path, const Json& json) {
  constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  constexpr const char* kLlama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr const char* kQwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::vector<Json> steps = steps_of(json.value("pre_tokenizer", Json()), "pretokenizers");
  const Json last = steps.empty() ? Json() : steps.back();
  if (word_at(last, "type") != "ByteLevel" || flag_at(last, "add_prefix_space")) refuse(path, "its pre-tokenizer is not byte-level");
  if (flag_at(last, "use_regex", true)) {
    if (steps.size() == 1) return "gpt-2";
    if (steps.size() == 2 && word_at(steps[0], "type") == "Digits" && flag_at(steps[0], "individual_digits")) return "smollm";
  } else if (steps.size() == 2 && word_at(steps[0], "type") == "Split" && !flag_at(steps[0], "invert") &&
             word_at(steps[0], "behavior") == "Isolated") {
    const std::string pattern = pattern_of(steps[0]);
    if (pattern == kGpt2) return "gpt-2";
    if (pattern == kLlama3) return "llama-bpe";
    if (pattern == kQwen2) return "qwen2";
  }
  refuse(path, "its pre-tokenizer is none that llama.cpp is known to have");
}

void byte_level(const std::string& path, const Json& json, GgufVocabulary& v) {
  v.model = "gpt2";
  v.pre = pre_tokenizer(path, json);
  v.merges = read_merges(path, json["model"]);
  if (flag_at(json["model"], "ignore_merges") != (v.pre == "llama-bpe"))
    refuse(path, "its model's ignore_merges is another than llama.cpp's");
  const Json normalizer = json.value("normalizer", Json());
  if (!normalizer.is_null() && word_at(normalizer, "type") != "NFC") refuse(path, "it normalises texts");
}

// The byte tokenizer: in llama.cpp a byte-level one without merges.
void bytes_alone(GgufVocabulary& v) {
  v.model = "gpt2";
  v.pre = "gpt-2";
  for (std::size_t id = 0; id < v.tokens.size(); ++id) {
    if (const auto byte = byte_piece(v.tokens[id]); byte && v.types[id] == Type::normal) v.tokens[id] = visible_byte(*byte);
  }
}

// SentencePiece's BPE in this form: a piece's score says when it is merged, here the first merge that makes it.
void byte_fallback(const std::string& path, const Json& json, GgufVocabulary& v) {
  v.model = "llama";
  v.pre = "default";
  std::unordered_map<std::string, float> scores;
  const auto merges = read_merges(path, json["model"]);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    std::string whole = merges[i];
    const std::size_t space = whole.find(' ');
    if (space != std::string::npos) whole.erase(space, 1);
    scores.try_emplace(whole, -static_cast<float>(i));
  }
  v.scores.assign(v.tokens.size(), 0);
  for (std::size_t id = 0; id < v.tokens.size(); ++id) {
    if (byte_piece(v.tokens[id])) v.types[id] = Type::byte;
    const auto it = scores.find(v.tokens[id]);
    if (v.types[id] == Type::normal) v.scores[id] = it != scores.end() ? it->second : -static_cast<float>(merges.size());
  }
  bool marks = false, prefix = false;
  const auto normalizers = steps_of(json.value("normalizer", Json()), "normalizers");
  for (const Json& step : normalizers) {
    marks = marks || (word_at(step, "type") == "Replace" && word_at(step, "content") == kPieceSpace);
    prefix = prefix || (word_at(step, "type") == "Prepend" && word_at(step, "prepend") == kPieceSpace);
  }
  for (const Json& step : steps_of(json.value("pre_tokenizer", Json()), "pretokenizers")) {
    if (word_at(step, "type") != "Metaspace" || flag_at(step, "split")) refuse(path, "its pre-tokenizer is not SentencePiece's");
    marks = true;
    prefix = word_at(step, "prepend_scheme") != "never";
  }
  if (!marks || normalizers.size() > 2) refuse(path, "its normaliser is not SentencePiece's");
  v.add_space_prefix = prefix;
}

// The begin and end tokens that the post-processor puts around a text.
void read_template(const Json& json, GgufVocabulary& v) {
  for (const Json& step : steps_of(json.value("post_processor", Json()), "processors")) {
    if (word_at(step, "type") != "TemplateProcessing" || !step.contains("single") || !step["single"].is_array()) continue;
    bool before = true;
    for (const Json& part : step["single"]) {
      if (!part.is_object() || !part.contains("SpecialToken")) {
        before = false;
      } else if (const int id = id_of(v, word_at(part["SpecialToken"], "id")); before) {
        v.bos = id, v.add_bos = id >= 0;
      } else {
        v.eos = id, v.add_eos = id >= 0;
      }
    }
  }
}

GgufVocabulary of_json(const std::string& path) {
  const Json json = read_json(path);
  const Json model = json.value("model", Json());
  if (word_at(model, "type") != "BPE" || !model.contains("vocab") || !model["vocab"].is_object()) refuse(path, "its model is no BPE");
  GgufVocabulary v;
  read_tokens(path, json, v);
  const bool fallback = flag_at(model, "byte_fallback"), merges = model.contains("merges") && !model["merges"].empty();
  if (!fallback) {
    byte_level(path, json, v);
  } else if (!merges && json.value("normalizer", Json()).is_null() && json.value("pre_tokenizer", Json()).is_null()) {
    bytes_alone(v);
  } else {
    byte_fallback(path, json, v);
  }
  v.unknown = id_of(v, word_at(model, "unk_token"));
  if (v.unknown >= 0 && v.model == "llama") v.types[static_cast<std::size_t>(v.unknown)] = Type::unknown_token;
  v.bos = id_of(v, "<s>");
  v.eos = id_of(v, "</s>");
  read_template(json, v);
  return v;
}

// ---- a directory

// A special token is written as its text or as an object that has it.
std::string token_text(const Json& config, const char* key) {
  if (!config.contains(key)) return "";
  return config[key].is_object() ? word_at(config[key], "content") : word_at(config, key);
}

void read_settings(const std::string& directory, GgufVocabulary& v) {
  const std::string path = directory + "/tokenizer_config.json", separate = directory + "/chat_template.jinja";
  if (there(path)) {
    const Json config = read_json(path);
    if (const int id = id_of(v, token_text(config, "bos_token")); id >= 0) v.bos = id;
    if (const int id = id_of(v, token_text(config, "eos_token")); id >= 0) v.eos = id;
    if (const int id = id_of(v, token_text(config, "unk_token")); id >= 0) v.unknown = id;
    // The slow Llama tokenizers go by these; the fast ones by their post-processor, which has been read.
    if (word_at(config, "tokenizer_class").starts_with("Llama")) {
      v.add_bos = flag_at(config, "add_bos_token", v.add_bos) && v.bos >= 0;
      v.add_eos = flag_at(config, "add_eos_token", v.add_eos) && v.eos >= 0;
    }
    v.chat_template = word_at(config, "chat_template");
  }
  if (there(separate)) v.chat_template = read_file(separate, kMostBytes);
}

GgufVocabulary of_directory(const std::string& directory) {
  const std::string json = directory + "/tokenizer.json", pieces = directory + "/tokenizer.model";
  if (!there(json) && !there(pieces)) fail(Exit::checkpoint, "{}: holds neither tokenizer.json nor tokenizer.model", directory);
  GgufVocabulary v = there(pieces) ? of_sentencepiece(pieces) : of_json(json);
  if (there(pieces) && there(json)) {  // pieces know their scores, the other file the tokens added to them
    const GgufVocabulary other = of_json(json);
    for (std::size_t id = 0; id < other.tokens.size(); ++id) {
      if (id == v.tokens.size()) v.tokens.emplace_back(), v.types.push_back(Type::unused), v.scores.push_back(-1000);
      const bool added = other.types[id] == Type::control || other.types[id] == Type::user_defined;
      if (added) v.tokens[id] = other.tokens[id], v.types[id] = other.types[id];
    }
    v.add_bos = other.add_bos, v.add_eos = other.add_eos;
  }
  read_settings(directory, v);
  return v;
}

}  // namespace

GgufVocabulary read_gguf_vocabulary(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return of_directory(path);
  return path.ends_with(".json") ? of_json(path) : of_sentencepiece(path);
}

}  // namespace offramp
