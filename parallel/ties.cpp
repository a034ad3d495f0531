#include "parallel/ties.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // elements: large enough for bandwidth, small enough to overlap the hops

struct Neighbours {
  int higher = -1, lower = -1;  // stages; -1: none
};
Neighbours neighbours(const Tie& tie, int stage) {
  const auto at = std::find(tie.stages.begin(), tie.stages.end(), stage);
  OFFRAMP_CHECK(at != tie.stages.end(), "[tie] stage {} does not hold {}", stage, tie.name);
  return {at == tie.stages.begin() ? -1 : *(at - 1), at + 1 == tie.stages.end() ? -1 : *(at + 1)};
}

Tensor flattened(const Tensor& t) { return t.reshape({t.elements()}); }

}  // namespace

void reduce_tie(Context& ctx, const TiedHere& here, const Tie& tie, int stage, const Group& pipeline) {
  const Neighbours next = neighbours(tie, stage);
  const Tensor sum = flattened(here.grad);
  std::vector<Work> sends;
  for (std::int64_t begin = 0; begin < sum.elements(); begin += kChunk) {
    const std::int64_t count = std::min(kChunk, sum.elements() - begin);
    const Tensor part = sum.narrow(0, begin, count);
    if (next.higher >= 0) {
      Scratch scratch(ctx);
      const Tensor arrived = scratch.tensor({count}, DType::f32);
      receive(ctx, arrived, pipeline, next.higher, kTieGradientTag).wait(ctx);
      add(ctx, part, arrived);
    }
    for (const Tensor& writer : here.writers) add(ctx, part, flattened(writer).narrow(0, begin, count));
    if (next.lower >= 0) sends.push_back(send(ctx, part, pipeline, next.lower, kTieGradientTag));
    ctx.beat();
  }
  for (Work& work : sends) work.wait(ctx);
}

void share_value(Context& ctx, const TiedHere& here, const Tie& tie, int stage, const Group& pipeline) {
  const Neighbours next = neighbours(tie, stage);
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
