// Byte pair encoding: neighbours that make a whole are joined, the rule of lowest rank first, leftmost of equals. n log n in the
// length of a word.
//
//   BytePairs pairs({{.left = 104, .right = 101, .whole = 256}});
//   pairs.merge(ids);                                     // {104, 101, 108} becomes {256, 108}
#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace offramp {

struct MergeRule {
  std::int32_t left = 0, right = 0, whole = 0;
};

class BytePairs {
 public:
  explicit BytePairs(const std::vector<MergeRule>& by_rank);  // of a pair that comes twice the later counts
  void merge(std::vector<std::int32_t>& ids) const;

 private:
  struct Rule {
    std::int32_t rank, whole;
  };
  struct Symbol {
    std::int32_t id, before, after;  // places of its neighbours; -1: none. id -1: joined to the one before
  };
  struct Join {
    std::int32_t rank, at, whole;
    bool operator<(const Join& b) const { return rank != b.rank ? rank > b.rank : at > b.at; }  // a heap has the largest on top
  };

  const Rule* rule(std::int32_t left, std::int32_t right) const;
  void propose(const std::vector<Symbol>& symbols, std::int32_t at, std::vector<Join>& heap) const;

  std::unordered_map<std::uint64_t, Rule> rules_;
};

}  // namespace offramp
