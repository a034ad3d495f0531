#include "data/pre_tokenizer.h"

#include <algorithm>

#include "data/unicode.h"

namespace offramp {
namespace {

std::vector<AddedToken> of_kind(std::vector<AddedToken> tokens, bool normalized, bool compose) {
  std::erase_if(tokens, [&](const AddedToken& t) { return t.normalized != normalized; });
  if (normalized && compose)
    for (AddedToken& t : tokens) t.content = composed(t.content);
  return tokens;
}

// Words of a part of a text, as words of the text.
void shift(Words& words, std::size_t first, std::size_t by) {
  for (std::size_t i = first; i < words.list.size(); ++i)
    if (words.list[i].end != Words::kNoCut) words.list[i].end += by;
}

bool is_space(char c) { return c == ' ' || c == '\n'; }

// Where a place of composed text is in the text it was made of: where both begin alike, and before spaces and line ends, whose number
// composing does not change. Places are asked for in order.
class Origin {
 public:
  Origin(std::string_view given, std::string_view made) : given_(given), made_(made) {
    const auto [a, b] = std::mismatch(given.begin(), given.end(), made.begin(), made.end());
    alike_ = at_given_ = at_made_ = static_cast<std::size_t>(a - given.begin());
  }

  std::size_t of(std::size_t place) {
    if (place <= alike_) return place;
    if (place == made_.size()) return given_.size();
    for (; at_made_ < place; ++at_made_)
      if (is_space(made_[at_made_])) at_given_ = given_.find_first_of(" \n", at_given_) + 1;
    return is_space(made_[place]) ? given_.find_first_of(" \n", at_given_) : Words::kNoCut;
  }

 private:
  std::string_view given_, made_;
  std::size_t alike_, at_given_, at_made_;
};

}  // namespace

PreTokenizer::PreTokenizer(PreTokenizing options)
    : splits_(std::move(options.splits)),
      raw_(of_kind(options.added, false, options.compose)),
      normalised_(of_kind(options.added, true, options.compose)),
      compose_(options.compose),
      add_space_(options.add_space) {}

std::size_t PreTokenizer::cut(Words& words) const {
  auto& list = words.list;  // a text that begins with a separator begins behind it: so a separator goes with what follows it
  while (!list.empty() && (list.back().end == Words::kNoCut || (add_space_ && list.back().separates))) list.pop_back();
  return list.empty() ? 0 : list.back().end;
}

void PreTokenizer::split(std::string_view text, Part part, Words& words) const {
  if (part.more) text.remove_suffix(unfinished_utf8(text));
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t valid = at + valid_utf8(text.substr(at));
    const std::size_t first = words.list.size();
    if (at < valid) split_valid(text.substr(at, valid - at), {part.begins || at > 0, part.more && valid == text.size()}, words);
    shift(words, first, at);
    at = valid + malformed_utf8(text.substr(valid));
    if (valid < at) words.list.push_back({text.substr(valid, at - valid), -1, at, true});
  }
}

void PreTokenizer::split_valid(std::string_view text, Part part, Words& words) const {
  split_added(raw_, &PreTokenizer::normalise, text, part, words);
}

void PreTokenizer::split_normalised(std::string_view text, Part part, Words& words) const {
  split_added(normalised_, &PreTokenizer::split_text, text, part, words);
}

void PreTokenizer::split_added(const AddedTokens& tokens, Level next, std::string_view text, Part part, Words& words) const {
  std::size_t done = 0, limit = part.more ? tokens.settled(text) : text.size();
  const auto between = [&](std::size_t end, bool more) {
    if (done >= end) return;
    const std::size_t first = words.list.size();
    (this->*next)(text.substr(done, end - done), {part.begins || done > 0, more}, words);
    shift(words, first, done);
  };
  for (std::size_t scan = 0;;) {
    const auto found = tokens.find(text, scan);
    if (!found || found->begin >= limit) break;
    scan = found->end;
    const std::size_t left = found->token->left_strip ? trim_end(text.substr(0, found->begin)).size() : found->begin;
    const std::size_t begin = std::max(done, left);
    const std::size_t end = found->end + (found->token->right_strip ? white_space_at_start(text.substr(found->end)) : 0);
    between(begin, false);
    if (part.more && found->token->right_strip && end == text.size()) return;  // it may take more
    words.list.push_back({text.substr(begin, end - begin), found->token->id, end, true});
    done = end;
  }
  between(limit, part.more);
}

void PreTokenizer::normalise(std::string_view text, Part part, Words& words) const {
  if (!compose_) return split_normalised(text, part, words);
  if (part.more) {  // an ASCII character joins none before it
    while (!text.empty() && (text.back() & 0x80)) text.remove_suffix(1);
    if (!text.empty()) text.remove_suffix(1);
  }
  std::string made = composed(text);
  if (made == text) return split_normalised(text, part, words);
  const std::string& changed = words.changed.emplace_back(std::move(made));
  const std::size_t first = words.list.size();
  split_normalised(changed, part, words);
  Origin origin(text, changed);
  for (std::size_t i = first; i < words.list.size(); ++i)
    if (words.list[i].end != Words::kNoCut) words.list[i].end = origin.of(words.list[i].end);
}

void PreTokenizer::split_text(std::string_view text, Part part, Words& words) const {
  if (!add_space_ || !part.begins || text.starts_with(' ')) return split_words(0, text, part.more, text.data(), words);
  const std::string& spaced = words.changed.emplace_back(" ").append(text);
  const std::size_t first = words.list.size();
  split_words(0, spaced, part.more, spaced.data(), words);
  for (std::size_t i = first; i < words.list.size(); ++i)
    words.list[i].end = words.list[i].end == 1 ? Words::kNoCut : words.list[i].end - 1;  // the space alone is nothing of the text
}

void PreTokenizer::split_words(std::size_t stage, std::string_view text, bool more, const char* base, Words& words) const {
  if (text.empty()) return;
  if (stage == splits_.size()) {
    if (!more) words.list.push_back({text, -1, static_cast<std::size_t>(text.data() + text.size() - base), false});
    return;
  }
  const Split& split = splits_[stage];
  for (std::size_t at = 0; at < text.size();) {
    const auto found = split.pattern.find(text, at, more);
    const bool match = found.kind == SplitPattern::Found::Kind::match;
    if (split.keep_gaps) split_words(stage + 1, text.substr(at, found.begin - at), more && !match, base, words);
    if (!match) break;
    if (split.keep_matches) split_words(stage + 1, text.substr(found.begin, found.end - found.begin), false, base, words);
    at = found.end;
  }
}

}  // namespace offramp
