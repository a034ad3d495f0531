// What a schedule takes on every rank in bytes, and how many it may take. A rank's memory follows from its program alone: slabs, as many
// as are ever held at once, and the rest, which no schedule changes.
//
//   const MemoryLimit limit{.bytes = 80'000'000'000, .ranks = measured};   // measure_memory() in parallel/settle.h
//   if (limit.excess(schedule, layout).bytes > 0) ...
#pragma once
#include "parallel/simulate.h"

namespace offramp {

struct RankBytes {
  std::size_t rest = 0;                    // all but slabs
  std::array<std::size_t, kHolds> slab{};  // bytes of one
  SlabCounts evaluation{};                 // slabs that an evaluation holds at most
};

// Slabs that a rank keeps ready: what both of its programs hold at most.
SlabCounts pooled_slabs(const SlabCounts& training, const SlabCounts& evaluation, int microbatches);

struct MemoryLimit {
  std::size_t bytes = 0;                      // of each rank; 0: no limit
  std::vector<std::vector<RankBytes>> ranks;  // per pipeline rank, those of its tensor ranks that differ

  explicit operator bool() const { return bytes > 0; }
  std::size_t peak(int rank, const Program& program, const Layout& layout) const;
  struct Excess {
    std::size_t bytes = 0, needed = 0;  // above the limit; in all
    int rank = 0;                       // pipeline rank
  };
  Excess excess(const Schedule& schedule, const Layout& layout) const;  // of the fullest rank

  // Per stage, how many microbatches may be in flight at most: were a microbatch's input, stash and taps all that it takes.
  std::vector<int> most_in_flight(const Layout& layout) const;
};

}  // namespace offramp
