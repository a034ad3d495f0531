#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kNoColumn = std::numeric_limits<std::int32_t>::max();

// The row's maximum over what is not NaN; NaN shows in the sum of exponentials.
float maximum(const float* row, std::int64_t columns) {
  return fold_lanes(
      columns, -kInfinity, [=](std::int64_t j) { return row[j]; }, [](float a, float b) { return b > a ? b : a; });
}

// The lowest column that holds the maximum; 0 where there is none (all NaN).
std::int32_t column_of(const float* row, std::int64_t columns, float max) {
  constexpr std::int64_t kPiece = 512;  // looked through before asking whether it was there
  for (std::int64_t begin = 0; begin < columns; begin += kPiece) {
    const std::int32_t column = fold_lanes(
        std::min(kPiece, columns - begin), kNoColumn,
        [=](std::int64_t j) { return row[begin + j] == max ? static_cast<std::int32_t>(begin + j) : kNoColumn; },
        [](std::int32_t a, std::int32_t b) { return b < a ? b : a; });
    if (column != kNoColumn) return column;
  }
  return 0;
}

// What the exponents are taken from. A range without any number above -infinity sums to zero then, and only NaN makes NaN.
float shift_of(float max) { return max == -kInfinity ? 0 : max; }

}  // namespace

void softmax_stats(Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first) {
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  const float* x = logits.as<float>();
  float* s = optional<float>(stats);
  auto* best = optional<std::int32_t>(argmax);
  const std::int32_t* label = labels.as<std::int32_t>();
#pragma omp parallel for if (n * columns > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const float* row = x + i * columns;
    const float max = maximum(row, columns);
    if (best) best[i] = static_cast<std::int32_t>(first + column_of(row, columns, max));
    if (!s) continue;
    const std::int64_t column = label[i] - first;
    s[3 * i] = max;
    const float shift = shift_of(max);
    s[3 * i + 1] = sum_lanes(columns, [=](std::int64_t j) { return exp_fast(row[j] - shift); });
    s[3 * i + 2] = label[i] >= 0 && column >= 0 && column < columns ? row[column] : -kInfinity;
  }
}

// One row after another: three numbers a range are not worth a second thread.
void softmax_merge(Tensor stats, Tensor argmax, Tensor all) {
  const std::int64_t ranges = all.shape[0], n = all.shape[1] / 4;
  const float* a = all.as<float>();
  float* s = optional<float>(stats);
  auto* best = optional<std::int32_t>(argmax);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto of = [=](std::int64_t range) { return a + range * 4 * n + 3 * i; };
    std::int64_t winner = 0;
    for (std::int64_t r = 1; r < ranges; ++r) winner = of(r)[0] > of(winner)[0] ? r : winner;
    if (best) best[i] = std::bit_cast<std::int32_t>(a[winner * 4 * n + 3 * n + i]);
    if (!s) continue;
    const float max = of(winner)[0], shift = shift_of(max);
    float sum = 0, label = -kInfinity;
    for (std::int64_t r = 0; r < ranges; ++r) {
      sum += of(r)[1] * exp_fast(of(r)[0] - shift);
      if (of(r)[2] != -kInfinity) label = of(r)[2];
    }
    s[3 * i] = max, s[3 * i + 1] = sum, s[3 * i + 2] = label;
  }
}

namespace {

// Row i of the gradient: weight * (softmax - onehot), softmax_j = e^(x_j - max) / sum.
template <class D>
void loss_gradient(D* d, const float* x, const float* stats, float weight, std::int64_t columns, std::int64_t label_column) {
  const float max = stats[0], scale = weight / stats[1];
  const bool here = label_column >= 0 && label_column < columns;
  const float at_label = here ? scale * exp_fast(x[label_column] - max) - weight : 0;  // before d, which may be x's memory
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j) d[j] = rounded<D>(scale * exp_fast(x[j] - max));
  if (here) d[label_column] = rounded<D>(at_label);
}

// In row order and in double. Few rows, one logarithm each: not worth a second thread.
void add_sums(double* sums, const float* stats, const std::int32_t* best, const std::int32_t* label, std::int64_t n, bool confidence) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (label[i] < 0) continue;
    const double sum = stats[3 * i + 1], loss = stats[3 * i] + std::log(sum) - stats[3 * i + 2];
    sums[0] += loss;
    sums[1] += confidence ? loss / sum : loss;
    sums[2] += best[i] == label[i] ? 1 : 0;
    sums[3] += 1;
  }
}

}  // namespace

void softmax_loss(Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels, std::int64_t first,
                  const LossOptions& options) {
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  const float *x = logits.as<float>(), *s = stats.as<float>();
  const std::int32_t* label = labels.as<std::int32_t>();
  if (sums.defined()) add_sums(sums.as<double>(), s, argmax.as<std::int32_t>(), label, n, options.confidence_weights);
  if (!dlogits.defined()) return;
  const float scale = *options.scale.as<float>();
  for_type(dlogits.dtype, [&]<class D>(D) {
    D* d = dlogits.as<D>();
#pragma omp parallel for if (n * columns > kParallelElements)
    for (std::int64_t i = 0; i < n; ++i) {
      const float weight = options.confidence_weights ? scale / s[3 * i + 1] : scale;  // the greatest probability is e^0 / sum
      if (label[i] >= 0) {
        loss_gradient(d + i * columns, x + i * columns, s + 3 * i, weight, columns, label[i] - first);
      } else {
        std::fill_n(d + i * columns, columns, D{});
      }
    }
  });
}

}  // namespace offramp::cpu
