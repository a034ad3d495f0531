// The tokens of a tokenizer.json that are found in text before anything else: of those that begin first, the longest.
//
//   AddedTokens tokens({{.content = "<|im_end|>", .id = 2}});
//   auto found = tokens.find("a<|im_end|>", 0);           // {1, 11, id 2}
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

struct AddedToken {
  std::string content;  // not empty
  std::int32_t id = -1;
  bool left_strip = false, right_strip = false;  // takes the white space before it, after it
  bool normalized = false, special = false;
};

class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  struct Found {
    std::size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;
  };
  // The first that begins at `from` or later; white space it takes is not in it.
  std::optional<Found> find(std::string_view text, std::size_t from) const;

  // Where a token might begin, or its white space, that is whole only with text that follows. No more than text.size().
  std::size_t settled(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> tokens_;  // by content
  std::vector<bool> begins_;        // [256]: whether one begins with this byte
  std::size_t longest_ = 0;
  bool any_left_strip_ = false;
};

}  // namespace offramp
