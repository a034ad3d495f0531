#include "models/layers.h"

namespace offramp {
namespace {

Parameter vector_of(const std::string& name, Init::Kind init, const NormOptions& options, const TensorParallel& tensor) {
  if (name.empty()) return {};
  return {.shape = {options.hidden},
          .init = {.kind = init},
          .pieces = {whole(name, {options.hidden})},
          .writer = options.owner.writer,
          .lr_scale = options.owner.lr_scale,
          .replicated = tensor.splits()};
}

}  // namespace

Norm::Norm(const NormOptions& options, const TensorParallel& tensor)
    : gain_(vector_of(options.gain, Init::Kind::ones, options, tensor)),
      bias_(vector_of(options.bias, Init::Kind::zeros, options, tensor)),
      eps_(static_cast<float>(options.eps)),
      learns_(options.owner.learns) {}

void Norm::visit(const Visitor& visitor) {
  visitor(gain_);
  if (centers()) visitor(bias_);
}

NormStats Norm::keep(Slot& slot, Tensor x) {
  const Shape rows{x.shape[0]};
  NormStats stats{.mean = {}, .rstd = slot.tensor(rows, DType::f32)};
  if (centers()) stats.mean = slot.tensor(rows, DType::f32);
  slot.push(x);
  slot.push(stats.rstd);
  slot.push(stats.mean);
  return stats;
}

void Norm::forward(Context& ctx, Tensor y, Tensor x, const NormStats& stats) {
  if (centers()) return layer_norm(ctx, y, stats, x, gain_.value, bias_.value, eps_);
  rms_norm(ctx, y, stats.rstd, x, gain_.value, eps_);
}

void Norm::again(Context& ctx, Tensor y, const Slot& slot) { forward(ctx, y, slot.peek(2), {}); }

void Norm::backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot) {
  const Tensor mean = slot.pop();
  const Tensor rstd = slot.pop(), x = slot.pop();
  if (!dx.defined() && !learns()) return;
  const NormGradients d = learns() ? NormGradients{gain_.grad, bias_.grad} : NormGradients{};
  if (centers()) return layer_norm_backward(ctx, dx, d, dy, d_residual, x, {mean, rstd}, gain_.value);
  rms_norm_backward(ctx, dx, d.gain, dy, d_residual, x, rstd, gain_.value);
}

}  // namespace offramp
