#include "parallel/split_head.h"

namespace offramp {

void sum_shares(Context& ctx, Tensor y, Tensor own, Tensor others, int at) {
  const int parts = static_cast<int>(others.shape[0]) + 1;
  Scratch scope(ctx);
  const Tensor sum = scope.tensor(own.shape, DType::f32), wide = scope.tensor(own.shape, DType::f32);
  for (int part = 0; part < parts; ++part) {
    const Tensor share = part == at ? own : others.narrow(0, part < at ? part : part - 1, 1).reshape(own.shape);
    copy(ctx, part == 0 ? sum : wide, share);
    if (part > 0) add(ctx, sum, wide);
  }
  copy(ctx, y, sum);
}

std::size_t scores_bytes(std::int64_t tokens, std::int64_t vocabulary) {
  return static_cast<std::size_t>(tokens * (vocabulary + 4)) * size_of(DType::f32);
}

std::size_t statistics_bytes(std::int64_t tokens, int parts) { return static_cast<std::size_t>(parts * 4 * tokens) * size_of(DType::f32); }

namespace {

void probe_tap(Head& head, const HeadProbe& probe, Slot& slot) { head.tap(probe.ctx, probe.slab, probe.in.x, slot); }

void probe_untap(Head& head, const HeadProbe& probe, Slot& slot) {
  if (probe.parts > 1) {
    Arena nowhere(Backing::none, kUnlimited, 5);
    const Tensor others = nowhere.tensor({probe.parts - 1, probe.slab.shape[0], probe.slab.shape[1]}, probe.slab.dtype);
    sum_shares(probe.ctx, probe.slab, probe.slab, others, 0);
  }
  head.untap(probe.ctx, head.spec().detach ? Tensor{} : probe.slab, probe.slab, slot);
}

}  // namespace

void probe_split_head(Head& head, const HeadProbe& probe, bool here, const std::function<void(Op)>& after) {
  const auto ran = [&](Op op) {
    if (after) after(op);
  };
  Scratch scope(probe.ctx);
  Slot slot(probe.train ? probe.stash : *probe.ctx.scratch, probe.train ? Keep::everything : Keep::nothing, probe.sequences,
            probe.in.draws);
  if (here) probe_tap(head, probe, slot), ran(Op::Tap);
  OutputMatrix& output = head.output();
  const std::int64_t tokens = probe.in.labels.elements();
  Arena nowhere(Backing::none, kUnlimited, 6);
  const ScoresIn in{probe.slab, probe.in.labels, nowhere.tensor({tokens, output.vocabulary()}, DType::f32)};
  const Tensor statistics = nowhere.tensor({probe.parts, 4 * tokens}, DType::f32);
  output.scores(probe.ctx, statistics.narrow(0, 0, 1).reshape({4 * tokens}), in), ran(Op::Scores);
  const LossOptions options{probe.in.scale, head.spec().confidence_weights};
  output.scores_backward(probe.ctx, probe.train ? probe.slab : Tensor{}, probe.sums, in, statistics, options), ran(Op::HeadBackward);
  if (!probe.train) return;
  output.scores_weight_gradient(probe.ctx, in), ran(Op::HeadWeightGrad);
  if (here) probe_untap(head, probe, slot), ran(Op::Untap);
}

}  // namespace offramp
