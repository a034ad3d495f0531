#include "data/byte_pairs.h"

#include <algorithm>
#include <limits>

#include "tensor/check.h"

namespace offramp {
namespace {

std::uint64_t key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

BytePairs::BytePairs(const std::vector<MergeRule>& by_rank) {
  rules_.reserve(by_rank.size());
  std::int32_t rank = 0;
  for (const MergeRule& r : by_rank) rules_[key(r.left, r.right)] = {rank++, r.whole};
}

const BytePairs::Rule* BytePairs::rule(std::int32_t left, std::int32_t right) const {
  const auto found = rules_.find(key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void BytePairs::propose(const std::vector<Symbol>& symbols, std::int32_t at, std::vector<Join>& heap) const {
  if (at < 0) return;
  const Symbol& s = symbols[static_cast<std::size_t>(at)];
  if (s.after < 0) return;
  const Rule* r = rule(s.id, symbols[static_cast<std::size_t>(s.after)].id);
  if (!r) return;
  heap.push_back({r->rank, at, r->whole});
  std::push_heap(heap.begin(), heap.end());
}

void BytePairs::merge(std::vector<std::int32_t>& ids) const {
  if (ids.size() < 2) return;
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    fail(Exit::data, "a word of {} bytes is too long for a tokenizer", ids.size());
  const auto count = static_cast<std::int32_t>(ids.size());
  std::vector<Symbol> symbols;
  symbols.reserve(ids.size());
  for (std::int32_t i = 0; i < count; ++i) symbols.push_back({ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  std::vector<Join> heap;
  for (std::int32_t i = 0; i < count; ++i) propose(symbols, i, heap);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Join join = heap.back();
    heap.pop_back();
    Symbol& s = symbols[static_cast<std::size_t>(join.at)];
    if (s.id < 0 || s.after < 0) continue;
    Symbol& next = symbols[static_cast<std::size_t>(s.after)];
    const Rule* r = rule(s.id, next.id);
    if (!r || r->whole != join.whole) continue;  // one of the two is another by now
    s.id = join.whole;
    s.after = next.after;
    next.id = -1;
    if (s.after >= 0) symbols[static_cast<std::size_t>(s.after)].before = join.at;
    propose(symbols, s.before, heap);
    propose(symbols, join.at, heap);
  }
  ids.clear();
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].after) ids.push_back(symbols[static_cast<std::size_t>(i)].id);
}

}  // namespace offramp
