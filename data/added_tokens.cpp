#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode.h"

namespace offramp {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), begins_(256) {
  std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& t : tokens_) {
    begins_[static_cast<unsigned char>(t.content.front())] = true;
    longest_ = std::max(longest_, t.content.size());
    any_left_strip_ = any_left_strip_ || t.left_strip;
  }
}

std::optional<AddedTokens::Found> AddedTokens::find(std::string_view text, std::size_t from) const {
  if (tokens_.empty()) return std::nullopt;
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    if (const AddedToken* token = longest_at(text.substr(at))) return Found{at, at + token->content.size(), token};
  }
  return std::nullopt;
}

// Tokens are sorted: those that begin with the first d bytes of the text are neighbours, the one of just d bytes in front.
const AddedToken* AddedTokens::longest_at(std::string_view text) const {
  auto first = tokens_.begin(), last = tokens_.end();
  const AddedToken* longest = nullptr;
  for (std::size_t d = 0; d < text.size() && first != last; ++d) {
    const auto byte = static_cast<unsigned char>(text[d]);
    const auto at = [d](const AddedToken& t) { return t.content.size() == d ? -1 : static_cast<unsigned char>(t.content[d]); };
    first = std::partition_point(first, last, [&](const AddedToken& t) { return at(t) < byte; });
    last = std::partition_point(first, last, [&](const AddedToken& t) { return at(t) <= byte; });
    if (first != last && first->content.size() == d + 1) longest = &*first;
  }
  return longest;
}

std::size_t AddedTokens::settled(std::string_view text) const {
  if (tokens_.empty()) return text.size();
  std::size_t at = text.size() - std::min(text.size(), longest_ - 1);
  while (at > 0 && at < text.size() && (text[at] & 0xC0) == 0x80) --at;
  return any_left_strip_ ? trim_end(text.substr(0, at)).size() : at;
}

}  // namespace offramp
