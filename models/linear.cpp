#include "models/layers.h"

namespace offramp {

Linear::Linear(Shape shape, Init init, std::vector<Piece> pieces, Ownership owner)
    : weight_{.shape = shape, .init = init, .pieces = std::move(pieces), .writer = owner.writer, .lr_scale = owner.lr_scale},
      learns_(owner.learns) {}

void Linear::forward(Context& ctx, Tensor y, Tensor x, Slot& slot, Tensor residual) {
  linear(ctx, y, x, weight_.value, {.residual = residual});
  slot.push(x);
}

// y = x w^T:  dx = dy w,  dw += dy^T x.
void Linear::backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) {
  const Tensor x = slot.pop();
  if (dx.defined()) linear_backward_input(ctx, dx, dy, weight_.value);
  slot.gradient(ctx, *this, dy, x);
}

void Linear::weight_gradient(Context& ctx, Tensor dy, Tensor x) {
  if (learns_ && weight_.grad.defined()) linear_backward_weight(ctx, weight_.grad, dy, x);
}

}  // namespace offramp
