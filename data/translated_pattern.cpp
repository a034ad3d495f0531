#include <cctype>

#include "data/split_pattern.h"
#include "data/unicode.h"
#include "tensor/check.h"

namespace offramp {
namespace {

bool is_letter_or_digit(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

// Walks an expression once. What is copied means the same in both libraries; everything else is rewritten or refused.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& path) : rest_(pattern), pattern_(pattern), path_(path) {}

  std::string run() {
    while (!rest_.empty()) in_class_ ? in_class() : outside();
    return out_;
  }

 private:
  void outside() {
    const char c = rest_.front();
    if (c == '\\') return escape();
    if (c == '[') return open_class();
    if (c == '(') return group();
    if (c == '{') return count();
    if (c == '^') refuse("^");
    copy(1);
  }

  void in_class() {
    const char c = rest_.front();
    if (c == '\\') return escape();
    if (c == '[') refuse("a class inside a class");
    if (rest_.starts_with("&&")) refuse("&&");
    in_class_ = c != ']';
    copy(1);
  }

  void open_class() {
    copy(rest_.starts_with("[^") ? 2 : 1);
    if (rest_.starts_with("]")) refuse("] as the first of a class");
    in_class_ = true;
  }

  void group() {
    if (rest_.starts_with("(*")) refuse("(*");
    if (!rest_.starts_with("(?")) return copy(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?>", "(?i:"})
      if (rest_.starts_with(known)) return copy(known.size());
    refuse(rest_.substr(0, 4));
  }

  // {n}, {n,} or {n,m}. A mark after it (lazy, possessive, again) means different things to the two.
  void count() {
    const std::size_t end = rest_.find_first_not_of("0123456789,", 1);
    if (end == 1 || end == rest_.npos || rest_[end] != '}' || rest_[1] == ',') refuse("{ that begins no number");
    copy(end + 1);
    if (!rest_.empty() && std::string_view("?+*{").find(rest_.front()) != std::string_view::npos) refuse("a mark after {}");
  }

  void escape() {
    if (rest_.size() < 2) refuse("\\ at the end");
    const char c = rest_[1];
    if (c == 'p' || c == 'P') return property();
    if (c == 'u' || c == 'x') return code_point();
    if (c == 's') return replace(2, in_class_ ? kWhiteSpaceClass : fmt::format("[{}]", kWhiteSpaceClass));
    if (c == 'S' && !in_class_) return replace(2, fmt::format("[^{}]", kWhiteSpaceClass));
    if (c == 'v') return replace(2, "\\x{0B}");
    if (is_letter_or_digit(c) && std::string_view("dDrntf").find(c) == std::string_view::npos) refuse(rest_.substr(0, 2));
    copy(2);
  }

  // \p{Lu}, \P{L}, \p{^L}: general categories as they are. Longer names are scripts, not what PCRE2 takes them for (script extensions).
  void property() {
    const std::size_t end = rest_.find('}');
    if (rest_.size() < 4 || rest_[2] != '{' || end == rest_.npos) refuse("\\p without {}");
    std::string_view name = rest_.substr(3, end - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    for (char letter : name)
      if (!is_letter_or_digit(letter) && letter != '_') refuse(rest_.substr(0, end + 1));
    replace(end + 1, fmt::format("\\{}{{{}{}{}}}", rest_[1], negated ? "^" : "", name.size() > 2 ? "sc:" : "", name));
  }

  void code_point() {
    const bool braces = rest_[1] == 'x' && rest_.size() > 2 && rest_[2] == '{';
    const std::size_t start = braces ? 3 : 2;
    std::size_t end = start;
    while (end < rest_.size() &&
           end < start + (rest_[1] == 'u' ? 4
                          : braces        ? 8
                                          : 2) &&
           std::isxdigit(static_cast<unsigned char>(rest_[end])))
      ++end;
    const std::string digits(rest_.substr(start, end - start));
    const bool whole = braces ? !digits.empty() && end < rest_.size() && rest_[end] == '}' : digits.size() == (rest_[1] == 'u' ? 4u : 2u);
    if (!whole || (rest_[1] == 'x' && !braces && digits[0] > '7')) refuse(rest_.substr(0, 4));  // \x80 and on are bytes of a character
    replace(end + (braces ? 1 : 0), fmt::format("\\x{{{}}}", digits));
  }

  void copy(std::size_t bytes) {
    out_ += rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
  }
  void replace(std::size_t bytes, const std::string& by) {
    out_ += by;
    rest_.remove_prefix(bytes);
  }
  [[noreturn]] void refuse(std::string_view what) const {
    fail(Exit::data, "{}: the regular expression {} has {}, which is not supported", path_, pattern_, what);
  }

  std::string_view rest_, pattern_;
  const std::string& path_;
  std::string out_;
  bool in_class_ = false;
};

}  // namespace

std::string translated_pattern(const std::string& pattern, const std::string& path) { return Translator(pattern, path).run(); }

std::string literal_pattern(const std::string& text) {
  std::string pattern;
  for (char c : text) {
    const bool plain = (c & 0x80) || is_letter_or_digit(c) || c == ' ';
    pattern += plain ? std::string(1, c) : static_cast<unsigned char>(c) < 0x20 ? fmt::format("\\x{{{:02X}}}", c) : std::string{'\\', c};
  }
  return pattern;
}

}  // namespace offramp
