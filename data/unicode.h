// What byte-level tokenizers need to know of Unicode: where text is UTF-8, what white space is, the composed form NFC, and the
// alphabet in which their vocabularies write bytes (a printable character for each: "Ġ" is the space, "Ċ" the line end).
//
//   valid_utf8("a\xFF") == 1;  composed("e\u0301") == "é";  bytes_of_letters("Ġthe") == " the";
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace offramp {

std::size_t valid_utf8(std::string_view text);             // bytes at the beginning that are whole characters
std::size_t malformed_utf8(std::string_view text);         // bytes at the beginning that belong to none
std::size_t unfinished_utf8(std::string_view text);        // bytes at the end of a character that more text may complete
std::string composed(std::string_view valid);              // Unicode's form NFC; valid: UTF-8
std::string_view trim_end(std::string_view valid);         // without the white space (Unicode's White_Space) at the end
std::size_t white_space_at_start(std::string_view valid);  // bytes

// White_Space as the inside of a PCRE2 character class: PCRE2's own \s takes U+180E in, which is none.
constexpr const char* kWhiteSpaceClass =
    R"(\x{09}-\x{0D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

std::string letters_of_bytes(std::string_view bytes);
std::optional<std::string> bytes_of_letters(std::string_view letters);  // none where a character is outside the alphabet

}  // namespace offramp
