#include <algorithm>
#include <cmath>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {
namespace {

// Both norms; RMSNorm takes the mean to be zero.
template <class A, bool kCentred>
void norm(Tensor y, NormStats stats, Tensor x, Tensor gain, Tensor bias, float eps) {
  const std::int64_t n = x.shape[0], h = x.shape[1];
  const A *xs = x.as<A>(), *g = gain.as<A>(), *b = optional<A>(bias);
  A* ys = optional<A>(y);
  float *means = optional<float>(stats.mean), *rstds = optional<float>(stats.rstd);
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const A* row = xs + i * h;
    const float mean = kCentred ? sum_lanes(h, [=](std::int64_t j) { return wide(row[j]); }) / static_cast<float>(h) : 0.0f;
    const float squares = sum_lanes(h, [=](std::int64_t j) { return (wide(row[j]) - mean) * (wide(row[j]) - mean); });
    const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(h) + eps);
    if (means) means[i] = mean;
    if (rstds) rstds[i] = rstd;
    if (!ys) continue;
    A* out = ys + i * h;
#pragma omp simd
    for (std::int64_t j = 0; j < h; ++j) {
      out[j] = rounded<A>((wide(row[j]) - mean) * rstd * wide(g[j]) + (b ? wide(b[j]) : 0.0f));
    }
  }
}

// One row of either norm's backward. With c = x - mean, q = gain dy and r = rstd:
//   dx_j = r (q_j - c_j r^2 mean(q c) - mean(q)),   dgain_j += dy_j c_j r,   dbias_j += dy_j.
// RMSNorm has neither the mean nor the term that comes of it.
template <class A, bool kCentred>
struct NormRow {
  const A *dy, *x, *gain, *residual;
  float mean, rstd;
  std::int64_t h;

  // Before dx, which may be dy's memory.
  void add_dgain(float* dgain) const {
#pragma omp simd
    for (std::int64_t j = 0; j < h; ++j) dgain[j] += wide(dy[j]) * (wide(x[j]) - mean) * rstd;
  }
  void set_dx(A* dx) const {
    const auto q = [this](std::int64_t j) { return wide(dy[j]) * wide(gain[j]); };
    const float dot = sum_lanes(h, [=, this](std::int64_t j) { return q(j) * (wide(x[j]) - mean); });
    const float shift = kCentred ? rstd * sum_lanes(h, q) / static_cast<float>(h) : 0.0f;
    const float pull = rstd * rstd * rstd * dot / static_cast<float>(h);
#pragma omp simd
    for (std::int64_t j = 0; j < h; ++j) {
      const float through = rstd * wide(gain[j]) * wide(dy[j]) - pull * (wide(x[j]) - mean) - shift;
      dx[j] = rounded<A>((residual ? wide(residual[j]) : 0.0f) + through);
    }
  }
};

template <class A>
void add_row(float* sums, const A* row, std::int64_t h) {
#pragma omp simd
  for (std::int64_t j = 0; j < h; ++j) sums[j] += wide(row[j]);
}

// Block b's row of partial sums, zeroed; null where there are none.
float* block_sums(const Tensor& partial, std::int64_t b) {
  if (!partial.defined()) return nullptr;
  float* sums = partial.as<float>() + b * partial.shape[1];
  std::fill_n(sums, partial.shape[1], 0.0f);
  return sums;
}

// sum += the partial sums, block after block; threads share the columns.
void add_partials(const Tensor& sum, const Tensor& partial) {
  if (!sum.defined()) return;
  constexpr std::int64_t kColumns = 256;
  const std::int64_t blocks = partial.shape[0], h = partial.shape[1];
  float* sums = sum.as<float>();
  const float* parts = partial.as<float>();
#pragma omp parallel for if (blocks * h > kParallelElements)
  for (std::int64_t begin = 0; begin < h; begin += kColumns) {
    const std::int64_t width = std::min(kColumns, h - begin);
    for (std::int64_t b = 0; b < blocks; ++b) add_row(sums + begin, parts + b * h + begin, width);
  }
}

template <class A, bool kCentred>
void norm_backward(Tensor dx, NormGradients d, Tensor dy, Tensor d_residual, Tensor x, NormStats stats, Tensor gain,
                   NormGradients partial) {
  const std::int64_t n = x.shape[0], h = x.shape[1];
  const A *dys = dy.as<A>(), *xs = x.as<A>(), *g = gain.as<A>(), *residual = optional<A>(d_residual);
  const float *means = kCentred ? stats.mean.as<float>() : nullptr, *rstds = stats.rstd.as<float>();
  A* dxs = optional<A>(dx);
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t b = 0; b < blocks_of(n, kBlockRows); ++b) {
    float *dgain = block_sums(partial.gain, b), *dbias = block_sums(partial.bias, b);
    for (std::int64_t i = b * kBlockRows; i < std::min(n, (b + 1) * kBlockRows); ++i) {
      const float mean = kCentred ? means[i] : 0.0f;
      const NormRow<A, kCentred> row{dys + i * h, xs + i * h, g, residual ? residual + i * h : nullptr, mean, rstds[i], h};
      if (dgain) row.add_dgain(dgain);
      if (dbias) add_row(dbias, row.dy, h);
      if (dxs) row.set_dx(dxs + i * h);
    }
  }
  add_partials(d.gain, partial.gain);
  add_partials(d.bias, partial.bias);
}

}  // namespace

void rms_norm(Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps) {
  for_type(x.dtype, [&]<class A>(A) { norm<A, false>(y, {.mean = {}, .rstd = rstd}, x, gain, {}, eps); });
}

void rms_norm_backward(Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain, Tensor partial) {
  const NormStats stats{.mean = {}, .rstd = rstd};
  const NormGradients d{.gain = dgain, .bias = {}}, parts{.gain = partial, .bias = {}};
  for_type(x.dtype, [&]<class A>(A) { norm_backward<A, false>(dx, d, dy, d_residual, x, stats, gain, parts); });
}

void layer_norm(Tensor y, NormStats stats, Tensor x, Tensor gain, Tensor bias, float eps) {
  for_type(x.dtype, [&]<class A>(A) { norm<A, true>(y, stats, x, gain, bias, eps); });
}

void layer_norm_backward(Tensor dx, NormGradients d, Tensor dy, Tensor d_residual, Tensor x, NormStats stats, Tensor gain,
                         NormGradients partial) {
  for_type(x.dtype, [&]<class A>(A) { norm_backward<A, true>(dx, d, dy, d_residual, x, stats, gain, partial); });
}

void column_sums(Tensor sum, Tensor x, Tensor partial) {
  const std::int64_t n = x.shape[0], h = x.shape[1];
  for_type(x.dtype, [&]<class A>(A) {
    const A* xs = x.as<A>();
#pragma omp parallel for if (n * h > kParallelElements)
    for (std::int64_t b = 0; b < blocks_of(n, kBlockRows); ++b) {
      float* sums = block_sums(partial, b);
      for (std::int64_t i = b * kBlockRows; i < std::min(n, (b + 1) * kBlockRows); ++i) add_row(sums, xs + i * x.stride[0], h);
    }
  });
  add_partials(sum, partial);
}

}  // namespace offramp::cpu
