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

// What of a vector [h] belongs to x [rows, h or less].
Tensor first_of(const Tensor& vector, const Tensor& x) { return vector.narrow(0, 0, x.shape[1]); }

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
  const Tensor gain = first_of(gain_.value, x), bias = first_of(bias_.value, x);
  if (centers()) return layer_norm(ctx, y, stats, x, gain, bias, eps_);
  rms_norm(ctx, y, stats.rstd, x, gain, eps_);
}

void Norm::again(Context& ctx, Tensor y, const Slot& slot) { forward(ctx, y, slot.peek(2), {}); }

void Norm::backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot) {
  const Tensor mean = slot.pop();
  const Tensor rstd = slot.pop(), x = slot.pop();
  if (!dx.defined() && !learns()) return;
  const NormGradients d = learns() ? NormGradients{first_of(gain_.grad, x), first_of(bias_.grad, x)} : NormGradients{};
  const Tensor gain = first_of(gain_.value, x);
  if (centers()) return layer_norm_backward(ctx, dx, d, dy, d_residual, x, {mean, rstd}, gain);
  rms_norm_backward(ctx, dx, d.gain, dy, d_residual, x, rstd, gain);
}

}  // namespace offramp
