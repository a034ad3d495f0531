// A regular expression of a tokenizer.json, which are written for Oniguruma, run by PCRE2: it cuts text into words.
//
// Where the two libraries read an expression differently it is translated (\s, scripts), or refused by name: looking behind,
// ^ and \b (text is cut and goes on), nested classes, back references, expressions that match nothing. PCRE2 of Debian 12 knows
// Unicode 14. Time for one match is bounded; an expression that exceeds it is an error.
//
//   SplitPattern numbers("\\p{N}{1,3}", path);
//   auto found = numbers.find("in 1984", 0, false);       // {match, 3, 6}
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace offramp {

class SplitPattern {
 public:
  SplitPattern(const std::string& pattern, const std::string& path);  // path: for messages; fail(Exit::data)
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;

  struct Found {
    enum class Kind { match, none, open } kind = Kind::none;
    std::size_t begin = 0, end = 0;
  };
  // The first match in text (UTF-8) that begins at `from` or later. With `more`, text follows that is not known yet: a match is then
  // one that no text that follows can change, and `open` says that it decides whether and how far there is one at `begin`.
  Found find(std::string_view text, std::size_t from, bool more) const;  // fail(Exit::data): took too long

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

// The same expression in PCRE2's words. fail(Exit::data) names what has none.
std::string translated_pattern(const std::string& pattern, const std::string& path);

// An expression for exactly this text.
std::string literal_pattern(const std::string& text);

}  // namespace offramp
