#include "data/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "data/hugging_face.h"
#include "data/json_tokenizer.h"
#include "data/piece_tokenizer.h"
#include "data/tokenizer_json.h"
#include "tensor/check.h"

namespace offramp {
namespace {

class ByteTokenizer : public Tokenizer {
 public:
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (auto id : ids)
      if (id >= 0 && id < 256) text.push_back(static_cast<char>(id));
    return text;
  }
  std::int64_t vocab_size() const override { return 257; }
  std::int32_t end_token() const override { return 256; }
  std::string file_bytes() const override { return byte_tokenizer_json(); }
  std::string file_suffix() const override { return ".json"; }
};

std::string file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code ignored;  // what cannot be looked at cannot be opened either
  if (!file || !std::filesystem::is_regular_file(path, ignored))
    fail(Exit::data,
         "{}: cannot be read; the tokenizer is \"bytes\", a SentencePiece file, as `offramp tokenizer train` writes it, a tokenizer.json, "
         "or a "
         "directory with one of them",
         path);
  constexpr std::size_t kMost = 64 << 20;  // the largest vocabularies in use take half of it
  if (const auto size = std::filesystem::file_size(path, ignored); !ignored && size > kMost)
    fail(Exit::data, "{}: {} bytes; at most {} are read of a tokenizer", path, size, kMost);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool is_json(const std::string& name, const std::string& content) {
  const auto first = content.find_first_not_of(" \t\r\n");
  return name.ends_with(".json") || (first != content.npos && content[first] == '{');
}

std::unique_ptr<Tokenizer> load_file(const std::string& name) {
  std::string content = file_content(name);
  if (content == byte_tokenizer_json()) return std::make_unique<ByteTokenizer>();
  if (is_json(name, content)) return json_tokenizer(name, std::move(content));
  return piece_tokenizer(name, std::move(content));
}

// Directories of SentencePiece models have both files; there tokenizer.model is the one that can be read.
std::unique_ptr<Tokenizer> load_directory(const std::filesystem::path& directory) {
  const std::string json = directory / "tokenizer.json", model = directory / "tokenizer.model";
  std::error_code ignored;
  const bool has_model = std::filesystem::exists(model, ignored);
  if (!std::filesystem::exists(json, ignored)) {
    if (!has_model)
      fail(Exit::data, "{}: a directory without tokenizer.json and tokenizer.model; the tokenizer may also be a file, or \"bytes\"",
           directory.string());
    return load_file(model);
  }
  try {
    return load_file(json);
  } catch (const SentencePieceJson&) {
    if (!has_model) throw;
    return load_file(model);
  }
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  std::error_code ignored;
  if (std::filesystem::is_directory(name, ignored)) return load_directory(name);
  return load_file(name);
}

std::optional<std::string> tokenizer_beside(const std::string& data_prefix) {
  std::error_code ignored;
  for (const char* part : {"_train", "_valid"}) {
    if (!data_prefix.ends_with(part)) continue;
    const std::string stem = data_prefix.substr(0, data_prefix.size() - std::string_view(part).size()) + "_tokenizer";
    for (const char* suffix : {".model", ".json"})
      if (std::filesystem::is_regular_file(stem + suffix, ignored)) return stem + suffix;
  }
  return std::nullopt;
}

}  // namespace offramp
