#include <algorithm>

#include "models/head.h"

namespace offramp {
namespace {

// 8 MiB of logits: large enough for full speed in the matrix products, small enough for a cache.
constexpr std::int64_t kLogits = std::int64_t{2} << 20;
constexpr std::int64_t kFewestTokens = 64;  // below, the products stream the matrix for too few rows
constexpr std::int64_t kRowBlock = 16;      // rows that matrix kernels take at once

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

OutputMatrix::OutputMatrix(std::string logical_name, Shape shape, double deviation, double lr_scale)
    : weight_{.shape = shape,
              .init = {.deviation = deviation},
              .pieces = {whole(std::move(logical_name), shape)},
              .writer = Writer::head,
              .lr_scale = lr_scale} {}

std::int64_t OutputMatrix::chunk(std::int64_t tokens, std::int64_t vocabulary) {
  const std::int64_t half = divide_up(tokens, 2);
  const std::int64_t most = std::clamp(std::max(kFewestTokens, kLogits / vocabulary), std::int64_t{1}, std::max<std::int64_t>(half, 1));
  const std::int64_t even = divide_up(tokens, divide_up(tokens, most));
  const std::int64_t rounded = divide_up(even, kRowBlock) * kRowBlock;
  return std::max<std::int64_t>(rounded <= half ? rounded : even, 1);
}

// dx = dlogits w,  dw += dlogits^T x, where dlogits overwrote the logits.
void OutputMatrix::loss(Context& ctx, Tensor dx, Tensor sums, Tensor x, Tensor labels, const LossOptions& options, bool train) {
  const std::int64_t n = x.shape[0], vocabulary = weight_.shape[0], most = chunk(n, vocabulary);
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    Scratch scope(ctx);
    const Tensor logits = scope.tensor({count, vocabulary}, DType::f32);
    const Tensor stats = scope.tensor({count, 3}, DType::f32);
    const Tensor argmax = scope.tensor({count}, DType::i32);
    const Tensor rows = x.narrow(0, first, count), targets = labels.narrow(0, first, count);  // [count, h], [count]
    linear(ctx, logits, rows, weight_.value);
    softmax_stats(ctx, stats, argmax, logits, targets);
    softmax_loss(ctx, sums, train ? logits : Tensor{}, logits, stats, argmax, targets, 0, options);
    if (train && dx.defined()) linear_backward_input(ctx, dx.narrow(0, first, count), logits, weight_.value);
    if (train && weight_.grad.defined()) linear_backward_weight(ctx, weight_.grad, logits, rows);
    ctx.beat();
  }
}

}  // namespace offramp
