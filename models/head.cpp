#include "models/head.h"

#include "tensor/check.h"

namespace offramp {

Head::Head(ExitSpec spec, int tap, std::vector<ModulePtr> body, std::unique_ptr<Norm> norm, OutputMatrix output)
    : spec_(spec), tap_(tap), body_(std::move(body)), norm_(std::move(norm)), output_(std::move(output)) {}

void Head::exit(Context& ctx, Tensor d_tap, Tensor sums, const HeadIn& in, const Sequences& sequences, bool train) {
  Scratch scope(ctx);
  Slot slot(*ctx.scratch, train ? Keep::everything : Keep::nothing, sequences, in.draws, in.subnet);
  const Tensor top = forward(ctx, in.x, slot);
  const bool bare = body_.empty() && !norm_;
  const Tensor d_top = bare || !train ? d_tap : scope.tensor(in.x.shape, in.x.dtype);  // [rows, h]
  output_.loss(ctx, d_top, sums, top, {in.labels, in.target.value_or(spec_.target), in.teacher},
               {in.scale, spec_.confidence_weights, in.temperature, in.label_weight}, train);
  if (train) backward(ctx, d_tap, d_top, slot);
}

void Head::logits(Context& ctx, Tensor logits, Tensor x, const Sequences& sequences, const Subnet& subnet) {
  Scratch scope(ctx);
  Slot slot(*ctx.scratch, Keep::nothing, sequences, {}, subnet);
  output_.logits(ctx, logits, forward(ctx, x, slot));
}

void Head::tap(Context& ctx, Tensor top, Tensor x, Slot& slot) {
  OFFRAMP_CHECK(spec_.target == Target::labels, "[head] where output matrices are split over the pipeline, exits learn labels only");
  const Tensor out = forward(ctx, x, slot, top);
  if (body_.empty() && !norm_) copy(ctx, top, out);
}

void Head::untap(Context& ctx, Tensor d_tap, Tensor d_top, Slot& slot) {
  if (!body_.empty() || norm_) return backward(ctx, d_tap, d_top, slot);
  if (d_tap.defined()) copy(ctx, d_tap, d_top);
}

Tensor Head::forward(Context& ctx, Tensor x, Slot& slot, Tensor top) {
  const Shape shape = x.shape;  // [rows, h]
  const auto output = [&](bool last) { return last && top.defined() ? top : slot.tensor(shape, x.dtype); };
  for (const ModulePtr& unit : body_) {
    const Tensor y = output(!norm_ && unit == body_.back());
    unit->forward(ctx, y, x, slot);
    x = y;
  }
  if (!norm_) return x;
  const Tensor y = output(true);
  norm_->forward(ctx, y, x, norm_->keep(slot, x));
  return y;
}

// Every part works in place on dy; only the lowest one writes d_tap.
void Head::backward(Context& ctx, Tensor d_tap, Tensor dy, Slot& slot) {
  if (norm_) norm_->backward(ctx, body_.empty() ? d_tap : dy, dy, {}, slot);
  for (std::size_t i = body_.size(); i-- > 0;) {
    body_[i]->backward(ctx, i == 0 ? d_tap : dy, dy, slot);
  }
}

void Head::visit(const Visitor& visitor) {
  visit_below_output(visitor);
  output_.visit(visitor);
}

void Head::visit_below_output(const Visitor& visitor) {
  for (const ModulePtr& unit : body_) unit->visit(visitor);
  if (norm_) norm_->visit(visitor);
}

}  // namespace offramp
