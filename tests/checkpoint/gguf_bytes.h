// GGUF files made by hand, sound or not, for the tests of their reader.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace offramp::testing {

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
inline std::string gguf_text(std::string_view text) { return raw<std::uint64_t>(text.size()) + std::string(text); }
// Types: u32 4, i32 5, f32 6, bool 7, text 8, array 9, u64 10.
inline std::string gguf_key(std::string_view key, std::uint32_t type, const std::string& value) {
  return gguf_text(key) + raw(type) + value;
}
inline std::string gguf_u32(std::string_view key, std::uint32_t value) { return gguf_key(key, 4, raw(value)); }
inline std::string gguf_f32(std::string_view key, float value) { return gguf_key(key, 6, raw(value)); }
inline std::string gguf_word(std::string_view key, std::string_view value) { return gguf_key(key, 8, gguf_text(value)); }
// sizes fastest first, as the file has them
inline std::string gguf_tensor(std::string_view name, const std::vector<std::uint64_t>& sizes, std::uint32_t type, std::uint64_t offset) {
  std::string bytes = gguf_text(name) + raw(static_cast<std::uint32_t>(sizes.size()));
  for (const std::uint64_t size : sizes) bytes += raw(size);
  return bytes + raw(type) + raw(offset);
}

struct GgufBytes {
  std::vector<std::string> keys, tensors;
  std::string data;
  std::uint32_t version = 3;
  std::uint64_t more_tensors = 0, more_keys = 0;  // than there are, in the counts
  std::size_t alignment = 32;

  std::string bytes() const {
    std::string all =
        "GGUF" + raw(version) + raw<std::uint64_t>(tensors.size() + more_tensors) + raw<std::uint64_t>(keys.size() + more_keys);
    for (const std::string& key : keys) all += key;
    for (const std::string& tensor : tensors) all += tensor;
    all.resize((all.size() + alignment - 1) / alignment * alignment, '\0');
    return all + data;
  }
};

}  // namespace offramp::testing
