#include "models/layers.h"

namespace offramp {
namespace {

bool draws(const Linear::Onto& onto) { return onto.dropout.p > 0 || onto.layer.p > 0; }

// All rows of a tensor whose rows are split over the group: one part a rank, in rank order.
Shape whole(const Tensor& part, const TensorParallel& tensor) { return {part.shape[0] * tensor.size(), part.shape[1]}; }

}  // namespace

Linear::Linear(LinearOptions options, TensorParallel tensor) : split_(options.split), tensor_(tensor), learns_(options.owner.learns) {
  const Ownership& owner = options.owner;
  weight_ = {.shape = options.shape, .init = options.init, .pieces = options.weight, .writer = owner.writer, .lr_scale = owner.lr_scale};
  bias_ = {.shape = {options.shape[0]},
           .init = {.kind = Init::Kind::zeros},
           .pieces = options.bias,
           .writer = owner.writer,
           .lr_scale = owner.lr_scale,
           .replicated = split_ != Split::column && tensor.splits()};
  weight_.replicated = split_ == Split::none && tensor.splits();
}

void Linear::visit(const Visitor& visitor) {
  visitor(weight_);
  if (!bias_.pieces.empty()) visitor(bias_);
}

void Linear::forward(Context& ctx, Tensor y, Tensor x, const Onto& onto) {
  const bool sums = split_ == Split::row && tensor_.splits();
  Scratch scope(ctx);
  if (gathers()) {
    const Tensor all = scope.tensor(whole(x, tensor_), x.dtype);  // [n, in]
    all_gather(ctx, all, x, tensor_.group).wait(ctx);
    x = all;
  }
  if (!sums && !draws(onto)) return linear(ctx, y, x, weight_.value, {bias_.value, onto.residual});
  Tensor branch = y;  // [n, out]; with sequence parallelism all rows of this rank's summands
  if (sums && tensor_.splits_rows()) branch = scope.tensor({x.shape[0], out()}, y.dtype);
  linear(ctx, branch, x, weight_.value);
  if (sums) (tensor_.splits_rows() ? reduce_scatter(ctx, y, branch, tensor_.group) : all_reduce(ctx, y, tensor_.group)).wait(ctx);
  join(ctx, y, onto.residual, y, {bias_.value, onto.dropout, onto.layer});
}

// y = r + d(x w^T + b):  dx = d'(dy) w,  dw += d'(dy)^T x,  db += d'(dy).
void Linear::backward(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot, const Onto& onto) {
  if (split_ == Split::column) return backward_column(ctx, dx, dy, x, slot);
  if (!draws(onto)) return backward_branch(ctx, dx, dy, x, slot);
  Scratch scope(ctx);
  const Tensor d_branch = scope.tensor(dy.shape, dy.dtype);
  join_backward(ctx, d_branch, dy, {{}, onto.dropout, onto.layer});
  backward_branch(ctx, dx, d_branch, x, slot);
}

void Linear::backward_branch(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot) {
  Scratch scope(ctx);
  bias_gradient(ctx, dy);
  if (split_ == Split::row && tensor_.splits_rows()) {
    const Tensor all = scope.tensor(whole(dy, tensor_), dy.dtype);
    all_gather(ctx, all, dy, tensor_.group).wait(ctx);
    dy = all;
  }
  linear_backward_input(ctx, dx, dy, weight_.value);
  slot.gradient(ctx, *this, dy, x);
}

// Each exchange travels under a product: the gathering of x under that of dx, the sum of dx under that of dw.
void Linear::backward_column(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot) {
  Scratch scope(ctx);
  Tensor d_all = dx;  // all rows, as x from here on
  Work gathered, summed;
  if (gathers()) {
    const Tensor part = x;
    x = scope.tensor(whole(part, tensor_), part.dtype);
    if (learns_) gathered = all_gather(ctx, x, part, tensor_.group);
    if (dx.defined()) d_all = scope.tensor(x.shape, dx.dtype);
  }
  if (dx.defined()) {
    linear_backward_input(ctx, d_all, dy, weight_.value);
    summed = gathers() ? reduce_scatter(ctx, dx, d_all, tensor_.group) : all_reduce(ctx, dx, tensor_.group);
  }
  bias_gradient(ctx, dy);
  gathered.wait(ctx);
  slot.gradient(ctx, *this, dy, x);
  summed.wait(ctx);
}

void Linear::bias_gradient(Context& ctx, Tensor dy) {
  if (learns_ && bias_.grad.defined()) column_sums(ctx, bias_.grad, dy);
}

void Linear::weight_gradient(Context& ctx, Tensor dy, Tensor x) {
  if (learns_ && weight_.grad.defined()) linear_backward_weight(ctx, weight_.grad, dy, x);
}

}  // namespace offramp
