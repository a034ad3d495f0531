#include "data/unicode.h"

#include <utf8proc.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tensor/check.h"

namespace offramp {
namespace {

struct Character {
  std::size_t size = 0;  // bytes; 0: malformed
  std::int32_t code = 0;
};

const utf8proc_uint8_t* raw(std::string_view text) { return reinterpret_cast<const utf8proc_uint8_t*>(text.data()); }

Character first_of(std::string_view text) {
  Character c;
  const auto size = utf8proc_iterate(raw(text), static_cast<utf8proc_ssize_t>(text.size()), &c.code);
  c.size = size > 0 ? static_cast<std::size_t>(size) : 0;
  return c;
}

bool continues(char c) { return (c & 0xC0) == 0x80; }

std::size_t ascii(std::string_view text) {
  std::size_t at = 0;
  for (std::uint64_t eight; at + 8 <= text.size(); at += 8) {
    std::memcpy(&eight, text.data() + at, 8);
    if (eight & 0x8080808080808080u) break;
  }
  while (at < text.size() && !(text[at] & 0x80)) ++at;
  return at;
}

bool is_white_space(std::int32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Printable Latin-1 stands for itself; the other 68 bytes are U+0100 and on, in order.
constexpr bool stands_for_itself(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD); }
constexpr std::size_t kLetters = 256 + 68;

constexpr std::array<std::int16_t, 256> make_letters() {
  std::array<std::int16_t, 256> letters{};
  std::int16_t next = 256;
  for (int byte = 0; byte < 256; ++byte)
    letters[static_cast<std::size_t>(byte)] = stands_for_itself(byte) ? static_cast<std::int16_t>(byte) : next++;
  return letters;
}
constexpr auto kLetterOfByte = make_letters();

constexpr std::array<std::int16_t, kLetters> make_bytes() {
  std::array<std::int16_t, kLetters> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (std::size_t byte = 0; byte < 256; ++byte) bytes[static_cast<std::size_t>(kLetterOfByte[byte])] = static_cast<std::int16_t>(byte);
  return bytes;
}
constexpr auto kByteOfLetter = make_bytes();

}  // namespace

std::size_t valid_utf8(std::string_view text) {
  std::size_t at = ascii(text);
  while (at < text.size()) {
    const Character c = first_of(text.substr(at));
    if (c.size == 0) break;
    at += c.size;
    if (at < text.size() && !(text[at] & 0x80)) at += ascii(text.substr(at));
  }
  return at;
}

std::size_t malformed_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && first_of(text.substr(at)).size == 0) ++at;
  return at;
}

std::size_t unfinished_utf8(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const char c = text[text.size() - back];
    if (continues(c)) continue;
    const auto lead = static_cast<unsigned char>(c);
    const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return size > back ? back : 0;
  }
  return 0;
}

std::string composed(std::string_view valid) {
  if (ascii(valid) == valid.size()) return std::string(valid);
  utf8proc_uint8_t* out = nullptr;
  const auto size = utf8proc_map(raw(valid), static_cast<utf8proc_ssize_t>(valid.size()), &out,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(out, &std::free);
  OFFRAMP_CHECK(size >= 0, "[composed] {} bytes: {}", valid.size(), utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(out), static_cast<std::size_t>(size)};
}

std::string_view trim_end(std::string_view valid) {
  while (!valid.empty()) {
    std::size_t start = valid.size() - 1;
    while (start > 0 && continues(valid[start])) --start;
    if (!is_white_space(first_of(valid.substr(start)).code)) break;
    valid = valid.substr(0, start);
  }
  return valid;
}

std::size_t white_space_at_start(std::string_view valid) {
  std::size_t at = 0;
  while (at < valid.size()) {
    const Character c = first_of(valid.substr(at));
    if (!is_white_space(c.code)) break;
    at += c.size;
  }
  return at;
}

std::string letters_of_bytes(std::string_view bytes) {
  std::string letters;
  for (char c : bytes) {
    const int letter = kLetterOfByte[static_cast<unsigned char>(c)];
    if (letter < 0x80)
      letters += static_cast<char>(letter);
    else
      letters += {static_cast<char>(0xC0 | (letter >> 6)), static_cast<char>(0x80 | (letter & 0x3F))};
  }
  return letters;
}

std::optional<std::string> bytes_of_letters(std::string_view letters) {
  std::string bytes;
  for (std::size_t at = 0; at < letters.size();) {
    const Character c = first_of(letters.substr(at));
    if (c.size == 0 || static_cast<std::size_t>(c.code) >= kLetters || kByteOfLetter[static_cast<std::size_t>(c.code)] < 0)
      return std::nullopt;
    bytes += static_cast<char>(kByteOfLetter[static_cast<std::size_t>(c.code)]);
    at += c.size;
  }
  return bytes;
}

}  // namespace offramp
