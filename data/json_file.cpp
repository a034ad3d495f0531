#include "data/json_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::size_t kMostBytes = 64 << 20;  // the largest vocabularies in use take half of it
constexpr int kDeepest = 64;

int depth(std::string_view bytes) {
  int now = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else {
      in_string = c == '"';
      if (c == '{' || c == '[') deepest = std::max(deepest, ++now);
      if (c == '}' || c == ']') --now;
    }
  }
  return deepest;
}

}  // namespace

Json parse_json(std::string_view bytes, const std::string& path) {
  if (bytes.size() > kMostBytes) fail(Exit::data, "{}: {} bytes of JSON; at most {} are read", path, bytes.size(), kMostBytes);
  if (depth(bytes) > kDeepest) fail(Exit::data, "{}: JSON nested deeper than {}", path, kDeepest);
  Json root = Json::parse(bytes, nullptr, false);
  if (root.is_discarded()) fail(Exit::data, "{}: not valid JSON", path);
  if (!root.is_object()) fail(Exit::data, "{}: JSON, but not of an object", path);
  return root;
}

const Json& member(const Json& object, const char* key, const std::string& path) {
  static const Json kNull;
  if (!object.is_object()) fail(Exit::data, "{}: no object where one with '{}' is expected", path, key);
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

bool bool_member(const Json& object, const char* key, bool otherwise, const std::string& path) {
  const Json& value = member(object, key, path);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) fail(Exit::data, "{}: '{}' is neither true nor false", path, key);
  return value.get<bool>();
}

std::string string_member(const Json& object, const char* key, const std::string& path) {
  const Json& value = member(object, key, path);
  if (value.is_null()) return {};
  if (!value.is_string()) fail(Exit::data, "{}: '{}' is no text", path, key);
  return value.get<std::string>();
}

std::optional<std::int32_t> id_member(const Json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= std::numeric_limits<std::int32_t>::max()) return std::nullopt;
  return value.get<std::int32_t>();
}

void only_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& path, std::string_view what) {
  if (!object.is_object()) fail(Exit::data, "{}: {} is no object", path, what);
  for (const auto& [key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) fail(Exit::data, "{}: '{}' of {} is not supported", path, key, what);
}

std::optional<std::string> file_bytes_of(const std::string& path) {
  std::error_code ignored;  // what cannot be looked at cannot be opened either
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  if (const auto size = std::filesystem::file_size(path, ignored); !ignored && size > kMostBytes)
    fail(Exit::data, "{}: {} bytes; at most {} are read", path, size, kMostBytes);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace offramp
