// The loss, the optimizers and the gradient norm: shapes checked, cost counted, scratch taken, kernel called.
#include "tensor/ops.h"

#include "tensor/cpu/kernels.h"
#include "tensor/operation.h"

namespace offramp {

void softmax_stats(Context& context, Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first) {
  const Expect expect("softmax_stats");
  expect.rank(logits, "logits", 2);
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  expect.f32(logits, "logits", {n, columns});
  expect.i32(labels, "labels", {n});
  expect.optional(stats, "stats", DType::f32, {n, 3});
  expect.optional(argmax, "argmax", DType::i32, {n});
  const Operation op(context, "softmax_stats", 4 * count_of(logits), {stats, argmax, logits, labels});
  if (op.planned()) return;
  cpu::softmax_stats(stats, argmax, logits, labels, first);
}

void softmax_merge(Context& context, Tensor stats, Tensor argmax, Tensor all) {
  const Expect expect("softmax_merge");
  expect.rank(all, "all", 2);
  const std::int64_t ranges = all.shape[0], n = all.shape[1] / 4;
  expect.f32(all, "all", {ranges, 4 * n});
  OFFRAMP_CHECK(ranges > 0, "[softmax_merge] there is no range");
  expect.optional(stats, "stats", DType::f32, {n, 3});
  expect.optional(argmax, "argmax", DType::i32, {n});
  const Operation op(context, "softmax_merge", count_of(all), {stats, argmax, all});
  if (op.planned()) return;
  cpu::softmax_merge(stats, argmax, all);
}

void softmax_loss(Context& context, Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels,
                  std::int64_t first, const LossOptions& options) {
  const Expect expect("softmax_loss");
  expect.rank(logits, "logits", 2);
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  expect.f32(logits, "logits", {n, columns});
  expect.f32(stats, "stats", {n, 3});
  expect.i32(labels, "labels", {n});
  expect.optional(sums, "sums", DType::f64, {kLossSums});
  if (sums.defined()) expect.i32(argmax, "argmax", {n});
  const bool gradient = dlogits.defined();  // the sums need no logits
  if (gradient) expect.tensor(dlogits, "dlogits", expect.working(dlogits, "dlogits"), {n, columns});
  if (gradient) expect.f32(options.scale, "scale", {1});
  const Operation op(context, "softmax_loss", gradient ? 4 * count_of(logits) : 0,
                     {sums, dlogits, gradient ? logits : Tensor{}, stats, labels});
  if (op.planned()) return;
  cpu::softmax_loss(sums, dlogits, logits, stats, argmax, labels, first, options);
}

namespace {

void check_scores(const Expect& expect, const Scores& scores, const Shape& shape) {
  expect.f32(scores.logits, "logits", shape);
  expect.f32(scores.stats, "stats", {shape[0], 3});
  expect.i32(scores.argmax, "argmax", {shape[0]});
}

}  // namespace

void softmax_soften(Context& context, Tensor softened, const Scores& exit, const Scores& teacher, float temperature) {
  const Expect expect("softmax_soften");
  expect.rank(exit.logits, "logits", 2);
  const Shape shape = exit.logits.shape;
  check_scores(expect, exit, shape);
  check_scores(expect, teacher, shape);
  expect.optional(softened, "softened", DType::f32, {shape[0], 2});
  const Operation op(context, "softmax_soften", 8 * count_of(exit.logits),
                     {softened, exit.logits, teacher.logits, exit.stats, teacher.stats});
  if (op.planned() || !softened.defined()) return;
  cpu::softmax_soften(softened, exit, teacher, temperature);
}

void softmax_distill(Context& context, Tensor sums, Tensor dlogits, const Scores& exit, const Scores& teacher, Tensor labels,
                     Tensor targets, std::int64_t first, const LossOptions& options, Tensor softened) {
  const Expect expect("softmax_distill");
  expect.rank(exit.logits, "logits", 2);
  const Shape shape = exit.logits.shape;
  check_scores(expect, exit, shape);
  check_scores(expect, teacher, shape);
  expect.i32(labels, "labels", {shape[0]});
  expect.optional(targets, "targets", DType::i32, {shape[0]});
  expect.optional(sums, "sums", DType::f64, {kLossSums});
  if (dlogits.defined()) expect.tensor(dlogits, "dlogits", expect.working(dlogits, "dlogits"), shape);
  if (dlogits.defined()) expect.f32(options.scale, "scale", {1});
  const bool softens = !targets.defined() && options.temperature != 1;
  if (softens) expect.f32(softened, "softened", {shape[0], 2});
  Scratch scratch(context);
  const Tensor partial = sums.defined() ? scratch.tensor({shape[0], 3}, DType::f32) : Tensor{};
  const Operation op(context, "softmax_distill", (softens ? 26 : 12) * count_of(exit.logits),
                     {sums, dlogits, exit.logits, teacher.logits, exit.stats, teacher.stats, labels, targets, softened});
  if (op.planned()) return;
  cpu::softmax_distill(sums, dlogits, exit, teacher, labels, targets, first, options, {softens ? softened : Tensor{}, partial});
}

namespace {

void check_weight(const Expect& expect, const Tensor& weight, const Tensor& master) {
  expect.rank(weight, "weight", 1);
  expect.tensor(weight, "weight", expect.working(weight, "weight"), weight.shape);
  if (weight.dtype == DType::bf16) return expect.f32(master, "master", weight.shape);
  OFFRAMP_CHECK(!master.defined(), "[update] an f32 weight is its own master, but another one is given");
}

// Which of the two an update reads; both are written.
const Tensor& exact(const Tensor& weight, const Tensor& master) { return master.defined() ? master : weight; }

}  // namespace

void adamw(Context& context, Tensor weight, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW& options) {
  const Expect expect("adamw");
  check_weight(expect, weight, master);
  for (const auto& [t, name] : {std::pair{m, "m"}, {v, "v"}, {grad, "grad"}}) expect.f32(t, name, weight.shape);
  expect.f32(scalars, "scalars", {4});
  const Operation op(context, "adamw", 16 * count_of(weight), {weight, master, m, v, exact(weight, master), m, v, grad, scalars});
  if (op.planned()) return;
  cpu::adamw(weight, master, m, v, grad, scalars, options);
}

void sgd(Context& context, Tensor weight, Tensor master, Tensor velocity, Tensor grad, Tensor scalars, const Sgd& options) {
  const Expect expect("sgd");
  check_weight(expect, weight, master);
  expect.f32(grad, "grad", weight.shape);
  expect.f32(scalars, "scalars", {4});
  expect.optional(velocity, "velocity", DType::f32, weight.shape);
  OFFRAMP_CHECK(velocity.defined() || options.momentum == 0, "[sgd] momentum is {}, but there is no velocity", options.momentum);
  const Operation op(context, "sgd", 8 * count_of(weight), {weight, master, velocity, exact(weight, master), velocity, grad, scalars});
  if (op.planned()) return;
  cpu::sgd(weight, master, velocity, grad, scalars, options);
}

void sum_of_squares(Context& context, Tensor sum, Tensor x) {
  const Expect expect("sum_of_squares");
  expect.tensor(sum, "sum", DType::f64, {1});
  expect.f32(x, "x", x.shape);
  Scratch scratch(context);
  const Tensor partial = scratch.tensor({cpu::blocks_of(x.elements(), cpu::kBlock)}, DType::f64);
  const Operation op(context, "sum_of_squares", 2 * count_of(x), {sum, x});
  if (op.planned()) return;
  cpu::sum_of_squares(sum, x, partial);
}

}  // namespace offramp
