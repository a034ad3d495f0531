#include <algorithm>

#include "models/head.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// 8 MiB of logits: large enough for full speed in the matrix products, small enough for a cache.
constexpr std::int64_t kLogits = std::int64_t{2} << 20;
constexpr std::int64_t kFewestTokens = 64;  // below, the products stream the matrix for too few rows
constexpr std::int64_t kRowBlock = 16;      // rows that matrix kernels take at once

// f32 values in the type that products take.
Tensor working(Context& ctx, Scratch& scope, Tensor values, DType dtype) {
  if (dtype == DType::f32) return values;
  const Tensor rounded = scope.tensor(values.shape, dtype);
  copy(ctx, rounded, values);
  return rounded;
}

// Of tokens [first, first + count).
Goal part_of(Goal goal, std::int64_t first, std::int64_t count) {
  goal.labels = goal.labels.narrow(0, first, count);
  if (goal.teacher.x.defined()) goal.teacher.x = goal.teacher.x.narrow(0, first, count);
  return goal;
}

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

OutputMatrix::OutputMatrix(const Options& options, TensorParallel tensor)
    : tensor_(tensor),
      range_(vocabulary_part(vocabulary_range(options.vocabulary, tensor), options.pipeline.part, options.pipeline.parts)),
      weight_{.shape = {range_.count, options.hidden},
              .init = {.deviation = options.deviation},
              .pieces = {rows_of(options.name, {options.vocabulary, options.hidden}, range_.first, range_.count)},
              .writer = Writer::head,
              .lr_scale = options.lr_scale} {}

std::int64_t OutputMatrix::chunk(std::int64_t tokens, std::int64_t vocabulary) {
  const std::int64_t half = divide_up(tokens, 2);
  const std::int64_t most = std::clamp(std::max(kFewestTokens, kLogits / vocabulary), std::int64_t{1}, std::max<std::int64_t>(half, 1));
  const std::int64_t even = divide_up(tokens, divide_up(tokens, most));
  const std::int64_t rounded = divide_up(even, kRowBlock) * kRowBlock;
  return std::max<std::int64_t>(rounded <= half ? rounded : even, 1);
}

void OutputMatrix::logits(Context& ctx, Tensor logits, Tensor x) { linear(ctx, logits, x, columns_of(weight_.value, x)); }

void OutputMatrix::loss(Context& ctx, Tensor dx, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options, bool train) {
  const Teacher& teacher = goal.teacher;
  OFFRAMP_CHECK(goal.target == Target::labels || teacher.x.defined(), "[loss] an exit that learns from the final head has none");
  OFFRAMP_CHECK(!teacher.x.defined() || teacher.output->range_ == range_, "[loss] the final head has another range of the vocabulary");
  if (!teacher.x.defined() && tensor_.rank() > 0) sums = {};  // each rank knows the same losses: one counts them
  if (!tensor_.splits_rows()) return loss_of_rows(ctx, dx, sums, x, goal, options, train);
  const std::int64_t n = goal.labels.elements();
  Scratch scope(ctx);
  Goal of_all = goal;
  if (teacher.x.defined()) of_all.teacher.x = all_rows(ctx, scope, teacher.x, n);
  const Tensor all = all_rows(ctx, scope, x, n);  // [n, h]
  const Tensor d_all = train && dx.defined() ? scope.tensor(all.shape, dx.dtype) : Tensor{};
  loss_of_rows(ctx, d_all, sums, all, of_all, options, train);
  if (d_all.defined()) reduce_scatter(ctx, dx, d_all, tensor_.group).wait(ctx);
}

// dx = dlogits w,  dw += dlogits^T x, where f32 dlogits overwrite the logits. Without sequence parallelism the sum of a chunk's dx
// over the vocabulary's ranges travels while the next chunk is computed.
void OutputMatrix::loss_of_rows(Context& ctx, Tensor dx, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options, bool train) {
  const std::int64_t n = x.shape[0], most = chunk(n, range_.count);
  std::vector<Work> travelling;
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    Scratch scope(ctx);
    const Tensor rows = x.narrow(0, first, count);  // [count, h]
    const Tensor d_logits = loss_of_chunk(ctx, scope, sums, rows, part_of(goal, first, count), options, train);
    if (train && dx.defined()) {
      const Tensor part = dx.narrow(0, first, count);
      linear_backward_input(ctx, part, d_logits, columns_of(weight_.value, x));
      if (!tensor_.splits_rows()) travelling.push_back(all_reduce(ctx, part, tensor_.group));
    }
    if (train && weight_.grad.defined()) linear_backward_weight(ctx, columns_of(weight_.grad, x), d_logits, rows);
  }
  for (Work& work : travelling) work.wait(ctx);
}

Tensor OutputMatrix::loss_of_chunk(Context& ctx, Scratch& scope, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options,
                                   bool train) {
  const bool taught = goal.teacher.x.defined();
  const Scores teacher = taught ? goal.teacher.output->scores(ctx, scope, goal.teacher.x, goal.labels) : Scores{};
  const Tensor targets = goal.target == Target::argmax ? teacher.argmax : goal.labels;
  const Scores own = scores(ctx, scope, x, targets);
  Tensor d_logits;
  if (train) d_logits = x.dtype == DType::f32 ? own.logits : scope.tensor(own.logits.shape, x.dtype);
  if (taught) {
    const bool distribution = goal.target == Target::distribution;
    const Tensor softened = distribution && options.temperature != 1 ? soften(ctx, scope, own, teacher, options.temperature) : Tensor{};
    softmax_distill(ctx, sums, d_logits, own, teacher, goal.labels, distribution ? Tensor{} : targets, range_.first, options, softened);
  } else {
    softmax_loss(ctx, sums, d_logits, own.logits, own.stats, own.argmax, goal.labels, range_.first, options);
  }
  return d_logits;
}

Tensor OutputMatrix::soften(Context& ctx, Scratch& scope, const Scores& own, const Scores& teacher, float temperature) const {
  const Tensor sums = scope.tensor({own.logits.shape[0], 2}, DType::f32);
  softmax_soften(ctx, sums, own, teacher, temperature);
  all_reduce(ctx, sums, tensor_.group).wait(ctx);
  return sums;
}

Tensor OutputMatrix::all_rows(Context& ctx, Scratch& scope, Tensor x, std::int64_t tokens) const {
  if (!tensor_.splits_rows()) return x;
  const Tensor all = scope.tensor({tokens, x.shape[1]}, x.dtype);
  all_gather(ctx, all, x, tensor_.group).wait(ctx);
  return all;
}

void OutputMatrix::scores(Context& ctx, Tensor statistics, const ScoresIn& in) {
  const std::int64_t n = in.labels.elements(), most = chunk(n, range_.count);
  Scratch scope(ctx);
  const Tensor x = all_rows(ctx, scope, in.x, n);
  const Tensor stats = statistics.narrow(0, 0, 3 * n).reshape({n, 3});
  Tensor argmax = statistics.narrow(0, 3 * n, n);
  argmax.dtype = DType::i32;
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    const Tensor logits = in.logits.narrow(0, first, count);
    this->logits(ctx, logits, x.narrow(0, first, count));
    softmax_stats(ctx, stats.narrow(0, first, count), argmax.narrow(0, first, count), logits, in.labels.narrow(0, first, count),
                  range_.first);
  }
  if (!tensor_.splits()) return;
  const Tensor all = scope.tensor({tensor_.size(), 4 * n}, DType::f32);
  all_gather(ctx, all, statistics, tensor_.group).wait(ctx);
  softmax_merge(ctx, stats, argmax, all);
}

void OutputMatrix::scores_backward(Context& ctx, Tensor share, Tensor sums, const ScoresIn& in, Tensor statistics,
                                   const LossOptions& options) {
  if (tensor_.rank() > 0) sums = {};
  const std::int64_t n = in.labels.elements(), most = chunk(n, range_.count), hidden = in.x.shape[1];
  Scratch scope(ctx);
  const Tensor stats = scope.tensor({n, 3}, DType::f32), argmax = scope.tensor({n}, DType::i32);
  softmax_merge(ctx, stats, argmax, statistics);
  const bool train = share.defined();
  const Tensor weight = columns_of(weight_.value, in.x);
  const Tensor d_rows = train && tensor_.splits_rows() ? scope.tensor({n, hidden}, share.dtype) : share;
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    Scratch inner(ctx);
    const Tensor logits = in.logits.narrow(0, first, count);
    softmax_loss(ctx, sums, train ? logits : Tensor{}, logits, stats.narrow(0, first, count), argmax.narrow(0, first, count),
                 in.labels.narrow(0, first, count), range_.first, options);
    if (train) linear_backward_input(ctx, d_rows.narrow(0, first, count), working(ctx, inner, logits, in.x.dtype), weight);
  }
  if (!train || !tensor_.splits()) return;
  if (tensor_.splits_rows()) return reduce_scatter(ctx, share, d_rows, tensor_.group).wait(ctx);
  all_reduce(ctx, share, tensor_.group).wait(ctx);
}

void OutputMatrix::scores_weight_gradient(Context& ctx, const ScoresIn& in) {
  if (!weight_.grad.defined()) return;
  const std::int64_t n = in.labels.elements(), most = chunk(n, range_.count);
  Scratch scope(ctx);
  const Tensor x = all_rows(ctx, scope, in.x, n);
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    Scratch inner(ctx);
    linear_backward_weight(ctx, columns_of(weight_.grad, x), working(ctx, inner, in.logits.narrow(0, first, count), in.x.dtype),
                           x.narrow(0, first, count));
  }
}

// Logits of this rank's range, statistics of the whole vocabulary.
Scores OutputMatrix::scores(Context& ctx, Scratch& scope, Tensor x, Tensor targets) {
  const std::int64_t count = x.shape[0];
  Scores c;
  c.logits = scope.tensor({count, range_.count}, DType::f32);
  const Tensor both = scope.tensor({4 * count}, DType::f32);  // what travels: the statistics, then the bits of the argmax
  c.stats = both.narrow(0, 0, 3 * count).reshape({count, 3});
  c.argmax = both.narrow(0, 3 * count, count);
  c.argmax.dtype = DType::i32;
  this->logits(ctx, c.logits, x);
  softmax_stats(ctx, c.stats, c.argmax, c.logits, targets, range_.first);
  if (!tensor_.splits()) return c;
  Scratch exchange(ctx);
  const Tensor all = exchange.tensor({tensor_.size(), both.elements()}, DType::f32);
  all_gather(ctx, all, both, tensor_.group).wait(ctx);
  softmax_merge(ctx, c.stats, c.argmax, all);
  return c;
}

}  // namespace offramp
