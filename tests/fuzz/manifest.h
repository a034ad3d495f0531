// What the target of manifests and the maker of its first inputs agree on: how a manifest ends, and the file that is there.
#pragma once
#include <string>
#include <string_view>

namespace offramp::fuzz {

inline constexpr std::string_view kSumKey = "\"checksum\": \"";
inline constexpr const char* kStoredName = "0.h5";
inline const std::string& stored_bytes() {
  static const std::string bytes(65536, '\1');
  return bytes;
}

}  // namespace offramp::fuzz
