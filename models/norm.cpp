#include "models/layers.h"

namespace offramp {

Norm::Norm(std::string name, std::int64_t hidden, double eps, Ownership owner)
    : gain_{.shape = {hidden},
            .init = {.kind = Init::Kind::ones},
            .pieces = {whole(std::move(name), {hidden})},
            .writer = owner.writer,
            .lr_scale = owner.lr_scale},
      eps_(static_cast<float>(eps)),
      learns_(owner.learns) {}

void Norm::forward(Context& ctx, Tensor y, Tensor x, Slot& slot) {
  const Tensor rstd = slot.tensor({x.shape[0]});
  rms_norm(ctx, y, rstd, x, gain_.value, eps_);
  slot.push(x);
  slot.push(rstd);
}

void Norm::backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot) {
  const Tensor rstd = slot.pop(), x = slot.pop();
  if (!dx.defined() && !learns()) return;
  rms_norm_backward(ctx, dx, learns() ? gain_.grad : Tensor{}, dy, d_residual, x, rstd, gain_.value);
}

}  // namespace offramp
