#include "data/tokenizer_json.h"

#include <algorithm>
#include <unordered_set>

#include "data/json_file.h"
#include "data/unicode.h"

namespace offramp {
namespace {

// GPT-2's: contractions, words, numbers, marks, each with a space before it, and spaces.
constexpr const char* kByteLevelPattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::size_t kMostSplits = 16, kLongestAdded = 4096;

std::string type_of(const Json& object, const std::string& path) { return string_member(object, "type", path); }

const Json& array_member(const Json& object, const char* key, const std::string& path) {
  const Json& value = member(object, key, path);
  if (!value.is_array()) fail(Exit::data, "{}: '{}' is no list", path, key);
  return value;
}

// ---- normalizer, pre_tokenizer, decoder ----

void read_normalizer(const Json& object, const std::string& path, PreTokenizing& to) {
  if (object.is_null()) return;
  const std::string type = type_of(object, path);
  if (type == "Sequence") {
    only_keys(object, {"type", "normalizers"}, path, "normalizer Sequence");
    for (const Json& step : array_member(object, "normalizers", path)) read_normalizer(step, path, to);
    return;
  }
  if (type != "NFC") fail(Exit::data, "{}: normalizer '{}' is not supported (NFC is)", path, type);
  to.compose = true;
}

void add_split(const std::string& pattern, const std::string& path, PreTokenizing& to, bool keep_gaps = true, bool keep_matches = true) {
  if (to.splits.size() == kMostSplits) fail(Exit::data, "{}: more than {} pre-tokenizers", path, kMostSplits);
  to.splits.push_back({SplitPattern(pattern, path), keep_gaps, keep_matches});
}

void read_split(const Json& object, const std::string& path, PreTokenizing& to) {
  only_keys(object, {"type", "pattern", "behavior", "invert"}, path, "pre_tokenizer Split");
  const Json& pattern = member(object, "pattern", path);
  only_keys(pattern, {"Regex", "String"}, path, "pattern");
  const std::string regex = string_member(pattern, "Regex", path), text = string_member(pattern, "String", path);
  if (regex.empty() == text.empty()) fail(Exit::data, "{}: a Split needs a pattern, either Regex or String", path);
  const std::string behavior = string_member(object, "behavior", path);
  if (behavior != "Isolated" && behavior != "Removed")
    fail(Exit::data, "{}: behavior '{}' of Split is not supported (Isolated and Removed are)", path, behavior);
  const bool invert = bool_member(object, "invert", false, path), isolated = behavior == "Isolated";
  add_split(text.empty() ? regex : literal_pattern(text), path, to, isolated || !invert, isolated || invert);
}

void read_byte_level(const Json& object, const std::string& path, PreTokenizing& to) {
  only_keys(object, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, path, "pre_tokenizer ByteLevel");
  to.add_space = bool_member(object, "add_prefix_space", true, path);
  if (to.add_space && !to.splits.empty()) fail(Exit::data, "{}: add_prefix_space behind another pre-tokenizer is not supported", path);
  if (bool_member(object, "use_regex", true, path)) add_split(kByteLevelPattern, path, to);
}

// Whether it was ByteLevel, behind which nothing may come: it changes what others would see.
bool read_pre_tokenizer(const Json& object, const std::string& path, PreTokenizing& to) {
  const std::string type = type_of(object, path);
  if (type == "Sequence") {
    only_keys(object, {"type", "pretokenizers"}, path, "pre_tokenizer Sequence");
    bool byte_level = false;
    for (const Json& step : array_member(object, "pretokenizers", path)) {
      if (byte_level) fail(Exit::data, "{}: a pre-tokenizer behind ByteLevel is not supported", path);
      byte_level = read_pre_tokenizer(step, path, to);
    }
    return byte_level;
  }
  if (type == "ByteLevel") return read_byte_level(object, path, to), true;
  if (type == "Split") return read_split(object, path, to), false;
  if (type != "Digits") fail(Exit::data, "{}: pre_tokenizer '{}' is not supported (ByteLevel, Split, Digits and Sequence are)", path, type);
  only_keys(object, {"type", "individual_digits"}, path, "pre_tokenizer Digits");
  add_split(bool_member(object, "individual_digits", false, path) ? "\\p{N}" : "\\p{N}+", path, to);
  return false;
}

void check_decoder(const Json& object, const std::string& path) {
  if (object.is_null()) return;
  const std::string type = type_of(object, path);
  if (type == "Sequence") {
    for (const Json& step : array_member(object, "decoders", path)) check_decoder(step, path);
  } else if (type != "ByteLevel") {
    fail(Exit::data, "{}: decoder '{}' is not supported (ByteLevel is)", path, type);
  }
}

// ---- model ----

void check_model(const Json& model, const std::string& path) {
  if (!model.is_object()) fail(Exit::data, "{}: has no 'model'", path);
  const std::string type = type_of(model, path);
  if (type != "BPE" && !(type.empty() && model.contains("merges")))
    fail(Exit::data, "{}: a model of type '{}'; BPE is supported", path, type);
  if (bool_member(model, "byte_fallback", false, path))
    throw SentencePieceJson(
        Exit::data, fmt::format("{}: holds a SentencePiece model (byte_fallback); name the tokenizer.model beside it instead", path));
  only_keys(model,
            {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
             "ignore_merges", "vocab", "merges"},
            path, "model");
  const Json& dropout = member(model, "dropout", path);
  if (!dropout.is_null() && dropout != 0) fail(Exit::data, "{}: dropout of merges is not supported", path);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!string_member(model, key, path).empty()) fail(Exit::data, "{}: {} is not supported", path, key);
}

void read_vocabulary(const Json& model, const std::string& path, TokenizerJson& to) {
  const Json& vocab = member(model, "vocab", path);
  if (!vocab.is_object()) fail(Exit::data, "{}: 'vocab' is no object", path);
  std::unordered_set<std::int32_t> seen;
  for (const auto& [token, value] : vocab.items()) {
    const auto id = id_member(value);
    if (!id) fail(Exit::data, "{}: token {} has the id {}, which is none", path, token, value.dump());
    if (!seen.insert(*id).second) fail(Exit::data, "{}: two tokens have the id {}", path, *id);
    to.vocabulary.emplace(token, *id);
  }
}

std::int32_t id_of(const TokenizerJson& json, const std::string& token, const std::string& path) {
  const auto found = json.vocabulary.find(token);
  if (found == json.vocabulary.end()) fail(Exit::data, "{}: a merge has '{}', which is no token", path, token);
  return found->second;
}

std::pair<std::string, std::string> pair_of(const Json& merge, const std::string& path) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  const std::size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos) fail(Exit::data, "{}: a merge is no pair of tokens", path);
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_model(const Json& model, const std::string& path, TokenizerJson& to) {
  check_model(model, path);
  read_vocabulary(model, path, to);
  for (const Json& merge : array_member(model, "merges", path)) {
    const auto [left, right] = pair_of(merge, path);
    to.merges.push_back({id_of(to, left, path), id_of(to, right, path), id_of(to, left + right, path)});
  }
  const std::string unknown = string_member(model, "unk_token", path);
  if (!member(model, "unk_token", path).is_null()) to.unknown = id_of(to, unknown, path);
  to.fuse_unknown = bool_member(model, "fuse_unk", false, path);
  to.ignore_merges = bool_member(model, "ignore_merges", false, path);
}

// ---- added tokens ----

AddedToken read_added(const Json& object, const std::string& path) {
  only_keys(object, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}, path, "added_tokens");
  const auto id = id_member(member(object, "id", path));
  AddedToken token{.content = string_member(object, "content", path),
                   .id = id.value_or(-1),
                   .left_strip = bool_member(object, "lstrip", false, path),
                   .right_strip = bool_member(object, "rstrip", false, path),
                   .normalized = bool_member(object, "normalized", false, path),
                   .special = bool_member(object, "special", false, path)};
  if (!id || token.content.empty()) fail(Exit::data, "{}: an added token without an id or content", path);
  if (token.content.size() > kLongestAdded) fail(Exit::data, "{}: an added token of {} bytes is too long", path, token.content.size());
  if (bool_member(object, "single_word", false, path))
    fail(Exit::data, "{}: single_word of the added token {} is not supported", path, token.content);
  return token;
}

// The library does not ask the file for ids: a token of the vocabulary has its own there, others get the next.
void read_added_tokens(const Json& root, const std::string& path, TokenizerJson& to) {
  if (member(root, "added_tokens", path).is_null()) return;
  const auto size = static_cast<std::int32_t>(to.vocabulary.size());
  std::unordered_set<std::string> seen;
  std::int32_t highest = -1;
  for (const Json& object : array_member(root, "added_tokens", path)) {
    AddedToken token = read_added(object, path);
    const auto known = to.vocabulary.find(token.content);
    const std::int32_t id = known != to.vocabulary.end() ? known->second : std::max(size, highest + 1);
    if (token.id != id) fail(Exit::data, "{}: the added token {} has the id {}, its place gives it {}", path, token.content, token.id, id);
    if (!seen.insert(token.content).second) fail(Exit::data, "{}: the added token {} is there twice", path, token.content);
    highest = std::max(highest, id);
    to.rules.added.push_back(std::move(token));
  }
}

void check_ids(const TokenizerJson& json, const std::string& path) {
  std::unordered_set<std::int32_t> taken;
  for (const auto& [token, id] : json.vocabulary) taken.insert(id);
  for (const AddedToken& token : json.rules.added)
    if (!json.vocabulary.contains(token.content) && !taken.insert(token.id).second)
      fail(Exit::data, "{}: the added token {} has the id {} of another", path, token.content, token.id);
}

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& path) {
  const Json root = parse_json(bytes, path);
  only_keys(root, {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"},
            path, "a tokenizer.json");
  TokenizerJson json;
  read_model(member(root, "model", path), path, json);
  read_normalizer(member(root, "normalizer", path), path, json.rules);
  const Json& pre_tokenizer = member(root, "pre_tokenizer", path);
  if (pre_tokenizer.is_null() || !read_pre_tokenizer(pre_tokenizer, path, json.rules))
    fail(Exit::data, "{}: no ByteLevel among its pre-tokenizers; only byte-level BPE is supported", path);
  check_decoder(member(root, "decoder", path), path);
  read_added_tokens(root, path, json);
  check_ids(json, path);
  return json;
}

}  // namespace offramp
