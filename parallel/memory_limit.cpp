#include "parallel/memory_limit.h"

#include <algorithm>

#include "parallel/actions.h"

namespace offramp {
namespace {

std::size_t bytes_of(const RankBytes& rank, const SlabCounts& counts) {
  std::size_t bytes = rank.rest;
  for (std::size_t h = 0; h < counts.size(); ++h) bytes += static_cast<std::size_t>(counts[h]) * rank.slab[h];
  return bytes;
}

// What a whole microbatch's forward leaves on a stage.
std::size_t kept_by_forward(const RankBytes& rank, int stage, const Layout& layout) {
  std::size_t bytes = 0;
  for (const Op op : {Op::RecvActivation, Op::Forward, Op::SendActivation}) {
    const Action action = make_action(op, stage, layout.last_microbatch(stage));
    if (!exists(action, layout)) continue;
    const Lifetimes slabs = lifetimes(action, layout);
    for (const Slab& slab : slabs.takes) bytes += rank.slab[static_cast<std::size_t>(slab.what)];
    for (const Slab& slab : slabs.gives) bytes -= rank.slab[static_cast<std::size_t>(slab.what)];
  }
  return bytes;
}

}  // namespace

SlabCounts pooled_slabs(const SlabCounts& training, const SlabCounts& evaluation, int microbatches) {
  SlabCounts counts{};
  for (std::size_t h = 0; h < counts.size(); ++h) counts[h] = std::max(training[h], evaluation[h]);
  int& output = counts[static_cast<std::size_t>(Hold::Output)];
  if (output == 1 && microbatches > 1) output = 2;  // one is filled while the other leaves
  return counts;
}

std::size_t MemoryLimit::peak(int rank, const Program& program, const Layout& layout) const {
  const SlabCounts training = peak_slabs(program, layout);
  std::size_t most = 0;
  for (const RankBytes& one : ranks[static_cast<std::size_t>(rank)])
    most = std::max(most, bytes_of(one, pooled_slabs(training, one.evaluation, layout.microbatches)));
  return most;
}

MemoryLimit::Excess MemoryLimit::excess(const Schedule& schedule, const Layout& layout) const {
  Excess worst;
  for (int r = 0; r < layout.ranks; ++r) {
    const std::size_t needed = peak(r, schedule[static_cast<std::size_t>(r)], layout);
    if (needed > worst.needed) worst = {needed > bytes ? needed - bytes : 0, needed, r};
  }
  return worst;
}

std::vector<int> MemoryLimit::most_in_flight(const Layout& layout) const {
  std::vector<int> most(static_cast<std::size_t>(layout.stages), layout.microbatches);
  for (int s = 0; s < layout.stages; ++s) {
    for (const RankBytes& rank : ranks[static_cast<std::size_t>(layout.rank_of(s))]) {
      const std::size_t left = bytes > rank.rest ? bytes - rank.rest : 0, each = std::max<std::size_t>(1, kept_by_forward(rank, s, layout));
      int& n = most[static_cast<std::size_t>(s)];
      n = std::max(1, static_cast<int>(std::min(left / each, static_cast<std::size_t>(n))));
    }
  }
  return most;
}

}  // namespace offramp
