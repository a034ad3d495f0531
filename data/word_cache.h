// Remembers the ids of words, which makes encoding ten times faster: text repeats its words.
//
//   RememberedWords words;                                // of a tokenizer that cuts text into words itself
//   words.find(word, [&](std::string_view w) { return slow_ids(w); });
//
//   WordCache cache(model);                               // of a SentencePiece model
//   if (cache.usable()) cache.encode(text, ids, [&](std::string_view word) { return slow_ids(word); });
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/sentencepiece_model.h"

namespace offramp {

// The next word of a text: spaces, what follows them up to a space or line end, and the line ends there; each may be missing.
std::string_view next_word(std::string_view text);

class RememberedWords {
 public:
  template <class Slow>
  const std::vector<int>& find(std::string_view word, Slow slow) {  // valid until the next call
    if (word.size() > kLongestWord) return long_word_ = slow(word);
    if (auto found = words_.find(word); found != words_.end()) return found->second;
    if (words_.size() == kMostWords) words_.clear();
    return words_.emplace(word, slow(word)).first->second;
  }

 private:
  static constexpr std::size_t kMostWords = 1 << 18, kLongestWord = 128;  // some 40 MB at most

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  std::unordered_map<std::string, std::vector<int>, Hash, std::equal_to<>> words_;
  std::vector<int> long_word_;
};

// A model that learnt no piece across two words gives each the same ids everywhere.
class WordCache {
 public:
  explicit WordCache(const SentencePieceModel& model);

  // Whether the ids of a text are those of its words: a BPE model that changes no text, without a piece that spans words.
  bool usable() const { return usable_; }

  template <class Slow>
  void encode(std::string_view text, std::vector<std::int32_t>& ids, Slow slow) {
    while (!text.empty()) {
      const std::string_view word = next_word(text);
      const std::vector<int>& known = words_.find(word, slow);
      ids.insert(ids.end(), known.begin(), known.end());
      text.remove_prefix(word.size());
    }
  }

 private:
  bool usable_;
  RememberedWords words_;
};

}  // namespace offramp
