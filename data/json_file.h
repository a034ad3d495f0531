// JSON files of others, read without trust: size and depth are bounded before anything is parsed, and members are asked for by
// kind, so that every surprise is an error that names the file and the place.
//
//   const Json root = parse_json(bytes, path);
//   only_keys(root, {"type", "pattern"}, path, "Split");
#pragma once
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace offramp {

using Json = nlohmann::json;  // sorted keys: an ordered one looks through all of a vocabulary for each entry

Json parse_json(std::string_view bytes, const std::string& path);  // fail(Exit::data) when it is none, or none of an object

// The member of an object; a null where it has none. fail(Exit::data) when `object` is no object.
const Json& member(const Json& object, const char* key, const std::string& path);

// `otherwise` where there is none or a null; fail(Exit::data) for another type.
bool bool_member(const Json& object, const char* key, bool otherwise, const std::string& path);
std::string string_member(const Json& object, const char* key, const std::string& path);  // "" where there is none or a null
std::optional<std::int32_t> id_member(const Json& value);  // a whole number from 0 to 2^31 - 2; none for anything else

// A member that is not understood might change ids. fail(Exit::data) names it.
void only_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& path, std::string_view what);

std::optional<std::string> file_bytes_of(const std::string& path);  // none where there is no file that can be read

}  // namespace offramp
