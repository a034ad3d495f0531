#include "parallel/ties.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // elements: large enough for bandwidth, small enough to overlap the hops

struct Neighbours {
  int higher = -1, lower = -1;  // -1: none
};
Neighbours neighbours(std::span<const int> all, int one) {
  const auto at = std::ranges::find(all, one);
  OFFRAMP_CHECK(at != all.end(), "[tie] {} is not among its holders", one);
  return {at == all.begin() ? -1 : *(at - 1), at + 1 == all.end() ? -1 : *(at + 1)};
}

// The last one owns the value.
std::vector<int> ranks_of(const Tie& tie, int ranks) {
  std::vector<int> all;
  for (auto stage = tie.stages.rbegin(); stage != tie.stages.rend(); ++stage)
    if (std::ranges::count(all, *stage % ranks) == 0) all.insert(all.begin(), *stage % ranks);
  return all;
}

Tensor flattened(const Tensor& t) { return t.reshape({t.elements()}); }

}  // namespace

void reduce_tie(Context& ctx, const Flat& flat, const Tie& tie, const TiedHere& here, const Group& pipeline) {
  const Neighbours next = neighbours(tie.stages, here.stage);
  const auto is_here = [&](int stage) { return stage % pipeline.size() == pipeline.rank(); };
  const Tensor sum = flattened(here.grad);
  std::vector<Work> sends;
  for (std::int64_t begin = 0; begin < sum.elements(); begin += kChunk) {
    const std::int64_t count = std::min(kChunk, sum.elements() - begin);
    const Tensor part = sum.narrow(0, begin, count);
    Scratch scratch(ctx);
    if (next.higher >= 0 && is_here(next.higher)) {
      add(ctx, part, flattened(flat.tied_at(here.tie, next.higher).grad).narrow(0, begin, count));
    } else if (next.higher >= 0) {
      const Tensor arrived = scratch.tensor({count}, DType::f32);
      receive(ctx, arrived, pipeline, next.higher % pipeline.size(), kTieGradientTag).wait(ctx);
      add(ctx, part, arrived);
    }
    for (const Tensor& writer : here.writers) add(ctx, part, flattened(writer).narrow(0, begin, count));
    if (next.lower >= 0 && !is_here(next.lower)) sends.push_back(send(ctx, part, pipeline, next.lower % pipeline.size(), kTieGradientTag));
    ctx.beat();
  }
  for (Work& work : sends) work.wait(ctx);
}

void share_value(Context& ctx, const TiedHere& here, const Tie& tie, const Group& pipeline) {
  if (!here.holds) return;
  const std::vector<int> ranks = ranks_of(tie, pipeline.size());
  const Neighbours next = neighbours(ranks, pipeline.rank());
  if (next.higher < 0 && next.lower < 0) return;
  const Tensor value = flattened(here.value);
  std::vector<Work> sends;
  for (std::int64_t begin = 0; begin < value.elements(); begin += kChunk) {
    const Tensor part = value.narrow(0, begin, std::min(kChunk, value.elements() - begin));
    if (next.lower >= 0) receive(ctx, part, pipeline, next.lower, kTieValueTag).wait(ctx);
    if (next.higher >= 0) sends.push_back(send(ctx, part, pipeline, next.higher, kTieValueTag));
    ctx.beat();
  }
  for (Work& work : sends) work.wait(ctx);
}

}  // namespace offramp
