#include "data/tokenizer_settings.h"

#include <algorithm>
#include <filesystem>

#include "data/json_file.h"
#include "data/unicode.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

constexpr const char* kNamed[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
constexpr const char* kEnds[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"};
// Names of code and of places of somebody else's machine.
constexpr const char* kDropped[] = {"auto_map", "tokenizer_file", "name_or_path", "special_tokens_map_file", "vocab_file", "merges_file"};

std::optional<Json> json_at(const fs::path& path) {
  const auto bytes = file_bytes_of(path.string());
  if (!bytes) return std::nullopt;
  return parse_json(*bytes, path.string());
}

std::string config_path(const std::string& path) {
  const bool is_json = path.ends_with(".json");
  return (is_json ? path.substr(0, path.size() - 5) : path) + "_config.json";
}

class Settings {
 public:
  Settings(const std::string& path, TokenizerJson& json) : tokenizer_(path), path_(config_path(path)), json_(json) {
    config_ = json_at(path_).value_or(Json::object());
    const fs::path file(path);
    if (file.filename() == "tokenizer.json") read_directory(file.parent_path());
    for (const char* key : kDropped) config_.erase(key);
    config_["tokenizer_class"] = "PreTrainedTokenizerFast";  // tokenizer.json as it is; other classes replace parts of it by their own
  }

  TokenizerSettings run() {
    check_flags();
    read_decoder();
    for (const char* key : kNamed) named(key);
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
      for (const auto& [name, value] : member(config_, key, path_).items()) add(token_of(value, key));
    TokenizerSettings settings;
    if (named("eos_token") < 0) name_end();
    settings.end = named("eos_token");
    if (const auto begin = named("bos_token"); begin >= 0) settings.begin = begin;
    settings.config = config_.dump(2, ' ', false) + "\n";
    return settings;
  }

 private:
  // Some classes of transformers let these change what tokenizer.json says.
  void check_flags() {
    if (bool_member(config_, "split_special_tokens", false, path_)) fail(Exit::data, "{}: split_special_tokens is not supported", path_);
    const bool space = json_.rules.add_space;
    if (bool_member(config_, "add_prefix_space", space, path_) != space)
      fail(Exit::data, "{}: add_prefix_space is {}, in {} it is {}; make them equal", path_, !space, tokenizer_, space);
    config_["add_prefix_space"] = space;
  }

  void read_directory(const fs::path& directory) {
    if (const auto map = json_at(directory / "special_tokens_map.json"))
      for (const char* key : kNamed)
        if (!has(key) && map->contains(key)) config_[key] = map->at(key);
    const std::string chat = (directory / "chat_template.jinja").string();
    if (const auto text = file_bytes_of(chat); text && !has("chat_template")) {
      if (valid_utf8(*text) != text->size()) fail(Exit::data, "{}: not UTF-8", chat);
      config_["chat_template"] = *text;
    }
    for (const char* file : {"generation_config.json", "config.json"})
      if (const auto model = json_at(directory / file)) read_model_ids(*model, (directory / file).string());
  }

  void read_model_ids(const Json& model, const std::string& path) {
    for (const auto& [key, id_key] : {std::pair{"eos_token", "eos_token_id"}, {"bos_token", "bos_token_id"}}) {
      const Json& ids = member(model, id_key, path);
      const Json& first = ids.is_array() && !ids.empty() ? ids.front() : ids;
      if (has(key) || first.is_null()) continue;
      const auto id = id_member(first);
      const auto content = id ? content_of(*id) : std::nullopt;
      if (!content) fail(Exit::data, "{}: {} is {}, which is no token of the tokenizer", path, id_key, ids.dump());
      config_[key] = *content;
    }
  }

  bool has(const char* key) const { return config_.contains(key) && !config_.at(key).is_null(); }

  std::optional<std::string> content_of(std::int32_t id) const {
    for (const AddedToken& t : json_.rules.added)
      if (t.id == id) return t.content;
    for (const auto& [token, known] : json_.vocabulary)
      if (known == id) return token;
    return std::nullopt;
  }

  // A token is named by its content, alone or in an object that says how it is found.
  AddedToken token_of(const Json& value, std::string_view key) const {
    if (!value.is_string() && !value.is_object()) fail(Exit::data, "{}: {} is no token", path_, key);
    AddedToken token{.special = true};
    token.content = value.is_string() ? value.get<std::string>() : string_member(value, "content", path_);
    if (!value.is_object()) return token;
    if (bool_member(value, "single_word", false, path_))
      fail(Exit::data, "{}: single_word of the token {} is not supported", path_, token.content);
    token.left_strip = bool_member(value, "lstrip", false, path_);
    token.right_strip = bool_member(value, "rstrip", false, path_);
    token.normalized = bool_member(value, "normalized", false, path_);
    token.special = bool_member(value, "special", true, path_);
    return token;
  }

  std::vector<AddedToken>::iterator added(const std::string& content) {
    auto& all = json_.rules.added;
    return std::find_if(all.begin(), all.end(), [&](const AddedToken& t) { return t.content == content; });
  }

  std::int32_t add(AddedToken token) {
    if (const auto known = added(token.content); known != json_.rules.added.end()) return known->id;
    const auto found = json_.vocabulary.find(token.content);
    if (token.content.empty() || found == json_.vocabulary.end())
      fail(Exit::data, "{}: names the token '{}', which the tokenizer does not have", path_, token.content);
    token.id = found->second;
    json_.rules.added.push_back(token);
    return token.id;
  }

  std::int32_t named(const char* key) { return has(key) ? add(token_of(config_.at(key), key)) : -1; }

  // added_tokens_decoder: {"2": {"content": ..., ...}, ...}. What it says of a token counts more than tokenizer.json.
  void read_decoder() {
    for (const auto& [id, value] : member(config_, "added_tokens_decoder", path_).items()) {
      AddedToken token = token_of(value, "added_tokens_decoder");
      token.id = add(token);
      if (std::to_string(token.id) != id)
        fail(Exit::data, "{}: the token {} has the id {}, in the tokenizer {}", path_, token.content, id, token.id);
      *added(token.content) = token;
    }
  }

  void name_end() {
    for (const char* end : kEnds)
      if (added(end) != json_.rules.added.end() || json_.vocabulary.contains(end)) {
        config_["eos_token"] = end;
        return;
      }
    fail(Exit::data,
         "{}: nothing names the token that ends a document; write {} with {{\"eos_token\": \"...\"}}, the content of a token it has",
         tokenizer_, path_);
  }

  std::string tokenizer_, path_;  // the two files
  TokenizerJson& json_;
  Json config_;
};

}  // namespace

TokenizerSettings read_settings(const std::string& path, TokenizerJson& json) { return Settings(path, json).run(); }

}  // namespace offramp
