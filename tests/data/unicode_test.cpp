#include "data/unicode.h"

#include <gtest/gtest.h>

#include "data/split_pattern.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

using Kind = SplitPattern::Found::Kind;

TEST(Unicode, FindsWhereTextIsMalformed) {
  EXPECT_EQ(valid_utf8("plain ascii text, longer than eight, \xC3\xA9\xF0\x9F\x8E\x89"), 43u);
  EXPECT_EQ(valid_utf8("a\xC0\x80"), 1u) << "longer than it must be";
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), 0u) << "a surrogate";
  EXPECT_EQ(malformed_utf8("\xFF\x80\xC3(\xFF"), 3u);
  EXPECT_EQ(unfinished_utf8("a\xF0\x9F\x8E"), 3u);
  EXPECT_EQ(unfinished_utf8("a\xC3"), 1u);
  EXPECT_EQ(unfinished_utf8("a\xC3\xA9"), 0u);
  EXPECT_EQ(unfinished_utf8("\x80\x80\x80\x80"), 0u);
}

TEST(Unicode, Composes) {
  EXPECT_EQ(composed("e\u0301 s\u0323\u0307 \u1112\u1161\u11ab \u2126 plain"), "é ṩ 한 Ω plain");
  EXPECT_EQ(composed(""), "");
}

TEST(Unicode, KnowsWhiteSpace) {
  EXPECT_EQ(trim_end("a \n\u3000\u00a0"), "a");
  EXPECT_EQ(trim_end("a \u180e"), "a \u180e");
  EXPECT_EQ(white_space_at_start("\u2003\t\u200b "), 4u);
}

TEST(Unicode, WritesBytesInTheirAlphabet) {
  EXPECT_EQ(letters_of_bytes(" the\n"), "ĠtheĊ");
  EXPECT_EQ(bytes_of_letters("ĠtheĊ"), " the\n");
  EXPECT_EQ(bytes_of_letters("a b"), std::nullopt);
  EXPECT_EQ(bytes_of_letters("漢"), std::nullopt);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(bytes_of_letters(letters_of_bytes(all)), all);
}

TEST(SplitPatterns, ReadOniguruma) {
  const auto ends = [](const std::string& pattern, const std::string& text) {
    const auto found = SplitPattern(pattern, "x").find(text, 0, false);
    return found.kind == Kind::match ? std::pair(found.begin, found.end) : std::pair(text.size(), text.size());
  };
  using Ends = std::pair<std::size_t, std::size_t>;
  EXPECT_EQ(ends("\\s+", "a\u180e \u0085b"), (Ends{4, 7})) << "U+180E is no space";
  EXPECT_EQ(ends("\\S+", " \u180e "), (Ends{1, 4}));
  EXPECT_EQ(ends("[^\\s]+", " \u180e "), (Ends{1, 4}));
  EXPECT_EQ(ends("(?i:'s)", "x'\u017f"), (Ends{1, 4})) << "the long s is an s";
  EXPECT_EQ(ends("\\p{Han}+", "、漢字"), (Ends{3, 9})) << "a mark that Chinese uses is of no script";
  EXPECT_EQ(ends("a++b", "aab"), (Ends{0, 3}));
  EXPECT_EQ(ends("\\u0041\\x{42}\\x43", "ABC"), (Ends{0, 3}));
  EXPECT_EQ(ends("a$", "ab\na\nb"), (Ends{3, 4}));
  EXPECT_EQ(ends(literal_pattern("(.\n*"), "x(.\n*"), (Ends{1, 5}));
}

// A match says whether text that follows could change it.
TEST(SplitPatterns, SayWhatFollowingTextDecides) {
  const SplitPattern pattern(R"( ?\p{L}+|\s+(?!\S)|\s+)", "x");
  EXPECT_EQ(pattern.find("ab", 0, false).kind, Kind::match);
  EXPECT_EQ(pattern.find("ab", 0, true).kind, Kind::open);
  EXPECT_EQ(pattern.find("ab ", 0, true).end, 2u);
  EXPECT_EQ(pattern.find("ab ", 2, true).kind, Kind::open);
  EXPECT_EQ(pattern.find("ab  ", 2, true).kind, Kind::open);
  EXPECT_EQ(pattern.find("ab  c", 2, true).end, 3u);
  EXPECT_EQ(pattern.find("1", 0, true).kind, Kind::none);
}

}  // namespace
}  // namespace offramp
