#include "parallel/stage.h"

namespace offramp {

void Stage::forward(Context& ctx, Tensor x, const Destination& destination, Slot& slot, int end) const {
  const std::int64_t hidden = slot.subnet().hidden_size;
  const Shape shape{units_.begin == 0 ? model_->tensor.rows(x.shape[0]) : x.shape[0], hidden > 0 ? hidden : model_->config.hidden_size};
  Scratch outputs(ctx);
  std::array<Tensor, 2> passing;  // without a backward, outputs that nobody reads later take turns in two buffers
  for (int u = units_.begin; u < end; ++u) {
    Tensor y = destination(u);
    if (!y.defined() && slot.keeps()) y = slot.tensor(shape, model_->precision);
    if (!y.defined()) {
      Tensor& buffer = passing[static_cast<std::size_t>(u % 2)];
      if (!buffer.defined()) buffer = outputs.tensor(shape, model_->precision);
      y = buffer;
    }
    Scratch temporaries(ctx);
    unit(u).forward(ctx, y, x, slot);
    x = y;
  }
  if (end < static_cast<int>(model_->units.size()) || !model_->final) return;
  const Tensor top = destination(end);
  if (!top.defined()) return;
  Scratch temporaries(ctx);
  Slot apart(*ctx.scratch, Keep::nothing, slot.sequences());  // the final head itself keeps what its backward needs
  model_->final->tap(ctx, top, x, apart);
}

void Stage::backward(Context& ctx, Tensor gradient, std::span<const TapGradient> taps, Units segment, Slot& slot) const {
  for (int u = segment.end - 1; u >= segment.begin; --u) {
    for (const TapGradient& tap : taps)
      if (tap.unit == u) add(ctx, gradient, tap.value);
    slot.begin_unit(u);
    unit(u).backward(ctx, u == 0 ? Tensor{} : gradient, gradient, slot);
  }
}

}  // namespace offramp
