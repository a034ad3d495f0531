// What happens to text before bytes are merged, as a tokenizer.json describes it: added tokens are found, what lies between them
// is composed (NFC) and cut into words by regular expressions, each inside the words of the one before.
//
//   Words words;
//   pre_tokenizer.split("It's 5 o'clock", {}, words);    // "It" "'s" " " "5" " o" "'clock", say
//
// Text may come in parts: with `more`, only words are given that no text that follows can change, and cut() says how much of the
// text they are. So the words of a document are those of its parts, wherever it is cut. Bytes that are not UTF-8 are words of their own.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "data/added_tokens.h"
#include "data/split_pattern.h"

namespace offramp {

struct Word {
  std::string_view text;
  std::int32_t id = -1;    // an added token's; -1: its bytes are to be merged
  std::size_t end = 0;     // of the given text, up to and with this word; kNoCut where no place of it can be named
  bool separates = false;  // an added token or malformed bytes
};

struct Words {
  static constexpr std::size_t kNoCut = ~std::size_t{0};
  std::vector<Word> list;
  std::deque<std::string> changed;  // text that is not the given one, for words to point into
};

// One regular expression, and what is kept of a text: what lies between matches, the matches.
struct Split {
  SplitPattern pattern;
  bool keep_gaps = true, keep_matches = true;
};

struct PreTokenizing {
  std::vector<AddedToken> added;
  std::vector<Split> splits;
  bool compose = false;    // NFC
  bool add_space = false;  // in front of a text, and behind an added token, where there is none
};

class PreTokenizer {
 public:
  explicit PreTokenizer(PreTokenizing options);

  struct Part {
    bool begins = true;  // nothing of the same text comes before
    bool more = false;   // something of it follows
  };
  void split(std::string_view text, Part part, Words& words) const;  // appends; text must outlive words

  // Drops words from the end until the text can be cut behind the last one; how many bytes that is.
  std::size_t cut(Words& words) const;

 private:
  using Level = void (PreTokenizer::*)(std::string_view, Part, Words&) const;

  void split_added(const AddedTokens& tokens, Level next, std::string_view text, Part part, Words& words) const;
  void split_valid(std::string_view text, Part part, Words& words) const;
  void normalise(std::string_view text, Part part, Words& words) const;
  void split_normalised(std::string_view text, Part part, Words& words) const;
  void split_text(std::string_view text, Part part, Words& words) const;
  void split_words(std::size_t stage, std::string_view text, bool more, const char* base, Words& words) const;

  std::vector<Split> splits_;
  AddedTokens raw_, normalised_;
  bool compose_, add_space_;
};

}  // namespace offramp
