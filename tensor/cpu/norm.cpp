#include <cmath>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {

void rms_norm(Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps) {
  const std::int64_t n = x.shape[0], h = x.shape[1];
  const float *xs = x.as<float>(), *g = gain.as<float>();
  float* ys = y.defined() ? y.as<float>() : nullptr;
  float* rs = rstd.defined() ? rstd.as<float>() : nullptr;
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const float* row = xs + i * h;
    const float squares = sum_lanes(h, [=](std::int64_t j) { return row[j] * row[j]; });
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(h) + eps);
    if (rs) rs[i] = scale;
    if (!ys) continue;
    float* out = ys + i * h;
#pragma omp simd
    for (std::int64_t j = 0; j < h; ++j) out[j] = row[j] * scale * g[j];
  }
}

namespace {

// One row. With y_j = x_j r g_j and r = (mean(x^2) + eps)^-1/2:
//   dx_j = r (g_j dy_j - x_j r^2 mean_k(g_k dy_k x_k)),   dg_j += dy_j x_j r.
struct NormRow {
  const float *dy, *x, *gain, *residual;
  float rstd;
  std::int64_t h;

  // Before dx, which may be dy's memory.
  void add_dgain(float* dgain) const {
#pragma omp simd
    for (std::int64_t j = 0; j < h; ++j) dgain[j] += dy[j] * x[j] * rstd;
  }
  void set_dx(float* dx) const {
    const float dot = sum_lanes(h, [this](std::int64_t j) { return dy[j] * gain[j] * x[j]; });
    const float pull = rstd * rstd * rstd * dot / static_cast<float>(h);
    if (residual) {
#pragma omp simd
      for (std::int64_t j = 0; j < h; ++j) dx[j] = residual[j] + (rstd * gain[j] * dy[j] - pull * x[j]);
    } else {
#pragma omp simd
      for (std::int64_t j = 0; j < h; ++j) dx[j] = rstd * gain[j] * dy[j] - pull * x[j];
    }
  }
};

// dgain += the partial sums, block after block; threads share the columns.
void add_partials(float* dgain, const float* partial, std::int64_t blocks, std::int64_t h) {
  constexpr std::int64_t kColumns = 256;
#pragma omp parallel for if (blocks * h > kParallelElements)
  for (std::int64_t begin = 0; begin < h; begin += kColumns) {
    const std::int64_t end = begin + kColumns < h ? begin + kColumns : h;
    for (std::int64_t b = 0; b < blocks; ++b) {
#pragma omp simd
      for (std::int64_t j = begin; j < end; ++j) dgain[j] += partial[b * h + j];
    }
  }
}

}  // namespace

void rms_norm_backward(Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain, Tensor partial) {
  const std::int64_t n = x.shape[0], h = x.shape[1], blocks = blocks_of(n, kBlockRows);
  const float *dys = dy.as<float>(), *xs = x.as<float>(), *g = gain.as<float>(), *rs = rstd.as<float>();
  const float* residual = d_residual.defined() ? d_residual.as<float>() : nullptr;
  float* dxs = dx.defined() ? dx.as<float>() : nullptr;
  float* sums = partial.defined() ? partial.as<float>() : nullptr;
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t b = 0; b < blocks; ++b) {
    float* block_sums = sums ? sums + b * h : nullptr;
    for (std::int64_t j = 0; block_sums && j < h; ++j) block_sums[j] = 0;
    const std::int64_t end = (b + 1) * kBlockRows < n ? (b + 1) * kBlockRows : n;
    for (std::int64_t i = b * kBlockRows; i < end; ++i) {
      const NormRow row{dys + i * h, xs + i * h, g, residual ? residual + i * h : nullptr, rs[i], h};
      if (block_sums) row.add_dgain(block_sums);
      if (dxs) row.set_dx(dxs + i * h);
    }
  }
  if (sums) add_partials(dgain.as<float>(), sums, blocks, h);
}

}  // namespace offramp::cpu
