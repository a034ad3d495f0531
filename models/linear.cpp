#include <array>

#include "models/layers.h"
#include "tensor/check.h"

namespace offramp {
namespace {

bool draws(const Linear::Onto& onto) { return onto.dropout.p > 0 || onto.layer.p > 0; }

constexpr std::size_t at(int i) { return static_cast<std::size_t>(i); }

// A rank's rows in equal parts, so that one can travel while another is multiplied; few rows stay together.
struct Parts {
  static constexpr int kMost = 2;
  static constexpr std::int64_t kFewestRows = 128;  // of a part: below, products lose more than the overlap gains
  int count = 1;
  std::int64_t rows;
  explicit Parts(std::int64_t all) : rows(all) {
    while (count < kMost && all % (count + 1) == 0 && all / (count + 1) >= kFewestRows) rows = all / ++count;
  }
  // Part p of rank r's rows, in a tensor that begins with those of rank 0.
  Tensor of(Tensor t, int p, int r = 0) const { return t.narrow(0, (r * count + p) * rows, rows); }
};

// All rows of a tensor whose rows are split over the group: one part a rank, in rank order.
Shape whole(const Tensor& part, const TensorParallel& tensor) {
  Shape all = part.shape;
  all.size[0] *= tensor.size();
  return all;
}

Tensor flat(const Tensor& t) { return t.defined() ? t.reshape({t.shape[0], t.elements() / std::max<std::int64_t>(t.shape[0], 1)}) : t; }

// What is used of a matrix [out, in], as [out groups, used, in groups, used].
Tensor part_of(const Tensor& matrix, const Extent& out, const Extent& in) {
  return matrix.narrow(0, 0, out.groups * out.stored)
      .narrow(1, 0, in.groups * in.stored)
      .reshape({out.groups, out.stored, in.groups, in.stored})
      .narrow(1, 0, out.used)
      .narrow(3, 0, in.used);
}

// The same as one matrix: where it lies, if nothing is between.
Tensor together(Context& ctx, Scratch& scope, const Tensor& matrix, const Extent& out, const Extent& in) {
  if (!matrix.defined()) return matrix;
  const Shape shape{out.elements(), in.elements()};
  const Tensor part = part_of(matrix, out, in);
  if (!out.gaps() && !in.gaps()) return part.reshape(shape);
  const Tensor packed = scope.tensor(part.shape, part.dtype);
  copy(ctx, packed, part);
  return packed.reshape(shape);
}

// And of a vector [out].
Tensor together(Context& ctx, Scratch& scope, const Tensor& vector, const Extent& out) {
  if (!vector.defined()) return vector;
  return together(ctx, scope, vector.reshape({vector.shape[0], 1}), out, {1, 1, 1}).reshape({out.elements()});
}

}  // namespace

Linear::Linear(LinearOptions options, TensorParallel tensor)
    : out_groups_(options.out_groups),
      in_groups_(options.in_groups),
      split_(options.split),
      tensor_(tensor),
      learns_(options.owner.learns) {
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

// Elements in a row of [n, ...]; dense ones are one group, however they are grouped.
Extent Linear::extent(const Tensor& t, std::int64_t stored, std::int64_t groups) {
  const std::int64_t elements = t.elements() / std::max<std::int64_t>(t.shape[0], 1);
  if (t.shape.rank < 4) return {1, elements, elements};
  const std::int64_t group = stored / groups;
  const Extent some{t.shape[1], t.shape[2] * t.shape[3], group};
  OFFRAMP_CHECK(some.used <= group, "[linear] {} of groups of {}", to_text(t.shape), group);
  return some.gaps() ? some : Extent{1, elements, elements};
}

void Linear::forward(Context& ctx, Tensor y, Tensor x, const Onto& onto) {
  Scratch scope(ctx);
  const Extent out = outputs(y);
  const Used used{together(ctx, scope, weight_.value, out, inputs(x)), together(ctx, scope, bias_.value, out)};
  y = flat(y), x = flat(x);
  if (gathers()) return forward_gathered(ctx, y, x, used);
  if (split_ == Split::row && tensor_.splits()) return forward_summed(ctx, y, x, used, onto);
  if (!draws(onto)) return linear(ctx, y, x, used.weight, {used.bias, onto.residual});
  linear(ctx, y, x, used.weight);
  join(ctx, y, onto.residual, y, {used.bias, onto.dropout, onto.layer});
}

// All parts of x set out at once; what has come is multiplied while the rest travels.
void Linear::forward_gathered(Context& ctx, Tensor y, Tensor x, const Used& used) {
  const Parts parts(x.shape[0]);
  Scratch scope(ctx);
  std::array<Work, Parts::kMost> arriving;
  std::array<Tensor, Parts::kMost> of_all;  // [ranks * part, in]: a part's rows of every rank
  for (int p = 0; p < parts.count; ++p) {
    of_all[at(p)] = scope.tensor({tensor_.size() * parts.rows, x.shape[1]}, x.dtype);
    arriving[at(p)] = all_gather(ctx, of_all[at(p)], parts.of(x, p), tensor_.group);
  }
  for (int p = 0; p < parts.count; ++p) {
    arriving[at(p)].wait(ctx);
    for (int r = 0; r < tensor_.size(); ++r)
      linear(ctx, parts.of(y, p, r), of_all[at(p)].narrow(0, r * parts.rows, parts.rows), used.weight, {used.bias});
  }
}

// The sum of a part travels while the next one is multiplied. With sequence parallelism a part is some rows of every rank's, and each
// rank gets its own of the sum.
void Linear::forward_summed(Context& ctx, Tensor y, Tensor x, const Used& used, const Onto& onto) {
  const bool scatters = tensor_.splits_rows();
  const Parts parts(y.shape[0]);
  Scratch scope(ctx);
  std::array<Work, Parts::kMost> summed;
  for (int p = 0; p < parts.count; ++p) {
    if (scatters) {
      const Tensor summands = scope.tensor({tensor_.size() * parts.rows, y.shape[1]}, y.dtype);
      for (int r = 0; r < tensor_.size(); ++r) linear(ctx, summands.narrow(0, r * parts.rows, parts.rows), parts.of(x, p, r), used.weight);
      summed[at(p)] = reduce_scatter(ctx, parts.of(y, p), summands, tensor_.group);
    } else {
      linear(ctx, parts.of(y, p), parts.of(x, p), used.weight);
      summed[at(p)] = all_reduce(ctx, parts.of(y, p), tensor_.group);
    }
  }
  for (int p = 0; p < parts.count; ++p) summed[at(p)].wait(ctx);
  join(ctx, y, onto.residual, y, {used.bias, onto.dropout, onto.layer});
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
  const Tensor all = split_ == Split::row && tensor_.splits_rows() ? gathered(ctx, scope, dy) : dy;
  input_gradient(ctx, dx, all);
  if (learns_) slot.gradient(ctx, *this, slot.defers() ? dy : all, x);
}

// Each exchange travels under a product: the gathering of x under that of dx, the sum of dx under that of dw. A weight gradient that
// waits gathers x itself, so that no rank holds all rows until then.
void Linear::backward_column(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot) {
  Scratch scope(ctx);
  Tensor d_all = dx;  // all rows, as x from here on
  Work arriving, summed;
  if (gathers() && dx.defined()) d_all = scope.tensor(whole(dx, tensor_), dx.dtype);
  if (gathers() && learns_ && !slot.defers()) {
    const Tensor part = x;
    x = scope.tensor(whole(part, tensor_), part.dtype);
    arriving = all_gather(ctx, x, part, tensor_.group);
  }
  if (dx.defined()) {
    input_gradient(ctx, d_all, dy);
    summed = gathers() ? reduce_scatter(ctx, dx, d_all, tensor_.group) : all_reduce(ctx, dx, tensor_.group);
  }
  bias_gradient(ctx, dy);
  arriving.wait(ctx);
  if (learns_) slot.gradient(ctx, *this, dy, x);
  summed.wait(ctx);
}

void Linear::input_gradient(Context& ctx, Tensor dx, Tensor dy) {
  if (!dx.defined()) return;
  Scratch scope(ctx);
  linear_backward_input(ctx, flat(dx), flat(dy), together(ctx, scope, weight_.value, outputs(dy), inputs(dx)));
}

void Linear::bias_gradient(Context& ctx, Tensor dy) {
  if (!learns_ || !bias_.grad.defined()) return;
  const Extent out = outputs(dy);
  for (std::int64_t g = 0; g < out.groups; ++g)
    column_sums(ctx, bias_.grad.narrow(0, g * out.stored, out.used), flat(dy).narrow(1, g * out.used, out.used));
}

void Linear::weight_gradient(Context& ctx, Tensor dy, Tensor x) {
  if (!learns_ || !weight_.grad.defined()) return;
  Scratch scope(ctx);
  if (dy.shape[0] < x.shape[0]) dy = gathered(ctx, scope, dy);
  if (x.shape[0] < dy.shape[0]) x = gathered(ctx, scope, x);
  const Extent out = outputs(dy), in = inputs(x);
  const Tensor dw = part_of(weight_.grad, out, in);
  dy = flat(dy), x = flat(x);
  for (std::int64_t o = 0; o < out.groups; ++o)
    for (std::int64_t i = 0; i < in.groups; ++i)
      linear_backward_weight(ctx, dw.narrow(0, o, 1).narrow(2, i, 1).reshape({out.used, in.used}), dy.narrow(1, o * out.used, out.used),
                             x.narrow(1, i * in.used, in.used));
}

Tensor Linear::gathered(Context& ctx, Scratch& scope, Tensor part) const {
  const Tensor all = scope.tensor(whole(part, tensor_), part.dtype);
  all_gather(ctx, all, part, tensor_.group).wait(ctx);
  return all;
}

}  // namespace offramp
