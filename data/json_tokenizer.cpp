#include "data/json_tokenizer.h"

#include <algorithm>
#include <array>

#include "data/tokenizer_json.h"
#include "data/tokenizer_settings.h"
#include "data/unicode.h"
#include "data/word_cache.h"

namespace offramp {
namespace {

std::array<std::int32_t, 256> byte_ids_of(const TokenizerJson& json) {
  std::array<std::int32_t, 256> ids;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = json.vocabulary.find(letters_of_bytes(std::string(1, static_cast<char>(byte))));
    ids[byte] = found == json.vocabulary.end() ? -1 : found->second;
  }
  return ids;
}

// Words that are a token whole are not merged: those of the vocabulary, by their bytes.
std::unordered_map<std::string, std::int32_t> whole_words_of(const TokenizerJson& json) {
  std::unordered_map<std::string, std::int32_t> whole;
  if (!json.ignore_merges) return whole;
  for (const auto& [token, id] : json.vocabulary)
    if (auto bytes = bytes_of_letters(token)) whole.emplace(std::move(*bytes), id);
  return whole;
}

std::unordered_map<std::int32_t, std::string> texts_of(const TokenizerJson& json) {
  std::unordered_map<std::int32_t, std::string> texts;
  for (const auto& [token, id] : json.vocabulary) texts[id] = bytes_of_letters(token).value_or(token);
  for (const AddedToken& token : json.rules.added) texts[token.id] = token.content;
  return texts;
}

class JsonTokenizer : public Tokenizer {
 public:
  JsonTokenizer(std::string bytes, TokenizerJson json, TokenizerSettings settings)
      : bytes_(std::move(bytes)),
        settings_(std::move(settings)),
        byte_ids_(byte_ids_of(json)),
        whole_words_(whole_words_of(json)),
        texts_(texts_of(json)),
        unknown_(json.unknown),
        fuse_unknown_(json.fuse_unknown),
        pairs_(json.merges),
        pre_tokenizer_(std::move(json.rules)) {
    for (const auto& [id, text] : texts_) size_ = std::max<std::int64_t>(size_, std::int64_t{id} + 1);
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override { encode_whole(text, {.begins = true}, ids); }
  void encode_next(std::string_view text, std::vector<std::int32_t>& ids) const override { encode_whole(text, {.begins = false}, ids); }

  std::size_t encode_part(std::string_view text, bool next, std::vector<std::int32_t>& ids) const override {
    Words words;
    pre_tokenizer_.split(text, {.begins = !next, .more = true}, words);
    const std::size_t used = pre_tokenizer_.cut(words);
    add(words, ids);
    return used;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (std::int32_t id : ids)
      if (const auto found = texts_.find(id); found != texts_.end()) text += found->second;
    return text;
  }

  std::int64_t vocab_size() const override { return size_; }
  std::int32_t end_token() const override { return settings_.end; }
  std::optional<std::int32_t> begin_token() const override { return settings_.begin; }
  std::string file_bytes() const override { return bytes_; }
  std::string file_suffix() const override { return ".json"; }
  std::string config_bytes() const override { return settings_.config; }

 private:
  void encode_whole(std::string_view text, PreTokenizer::Part part, std::vector<std::int32_t>& ids) const {
    Words words;
    pre_tokenizer_.split(text, part, words);
    add(words, ids);
  }

  void add(const Words& words, std::vector<std::int32_t>& ids) const {
    for (const Word& word : words.list) {
      if (word.id >= 0) {
        ids.push_back(word.id);
        continue;
      }
      const std::vector<int>& known = remembered_.find(word.text, [this](std::string_view w) { return merged(w); });
      ids.insert(ids.end(), known.begin(), known.end());
    }
  }

  std::vector<int> merged(std::string_view word) const {
    if (!whole_words_.empty())
      if (const auto found = whole_words_.find(std::string(word)); found != whole_words_.end()) return {found->second};
    std::vector<int> ids;
    bool after_unknown = false;
    for (char c : word) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0)
        ids.push_back(id);
      else if (unknown_ >= 0 && !(fuse_unknown_ && after_unknown))
        ids.push_back(unknown_);
      after_unknown = id < 0;
    }
    pairs_.merge(ids);
    return ids;
  }

  std::string bytes_;
  TokenizerSettings settings_;
  std::array<std::int32_t, 256> byte_ids_;  // -1: no token
  std::unordered_map<std::string, std::int32_t> whole_words_;
  std::unordered_map<std::int32_t, std::string> texts_;
  std::int64_t size_ = 0;
  std::int32_t unknown_;
  bool fuse_unknown_;
  BytePairs pairs_;
  PreTokenizer pre_tokenizer_;
  mutable RememberedWords remembered_;
};

}  // namespace

std::unique_ptr<Tokenizer> json_tokenizer(const std::string& path, std::string bytes) {
  TokenizerJson json = parse_tokenizer_json(bytes, path);
  TokenizerSettings settings = read_settings(path, json);
  return std::make_unique<JsonTokenizer>(std::move(bytes), std::move(json), std::move(settings));
}

}  // namespace offramp
