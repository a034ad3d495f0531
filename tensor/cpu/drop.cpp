#include "tensor/cpu/drop.h"

#include <algorithm>
#include <cmath>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/philox.h"

namespace offramp::cpu {

void drop_scales(float* scale, Key key, float p, std::uint64_t first, std::int64_t count) {
  const auto fallen = static_cast<std::uint64_t>(std::ceil(p * 0x1p24f));  // uniform() < p, in its units and without rounding
  const float kept = 1.0f / (1.0f - p);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) scale[i] = uniform_units(key, first + static_cast<std::uint64_t>(i)) < fallen ? 0.0f : kept;
}

namespace {

constexpr std::int64_t kColumns = 512;  // scales made at a time

// Whether the whole row falls.
bool falls_whole(const Drop& drop, std::int64_t row) {
  return drop.rows > 0 && falls(drop, static_cast<std::uint64_t>((drop.first_row + row) / drop.rows));
}

bool by_element(const Drop& drop) { return drop.p > 0 && drop.rows == 0; }

// scale *= that of `drop` for columns begin .. begin + count of a row.
void apply(const Drop& drop, float* scale, std::int64_t number, std::int64_t count) {
  float own[kColumns];
  drop_scales(own, drop.key, drop.p, static_cast<std::uint64_t>(number), count);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) scale[j] *= own[j];
}

// write(i, begin, count, scale) for pieces of every row i of n: scale is null where the row falls as a whole.
template <class F>
void for_scaled(std::int64_t n, std::int64_t h, const Join& join, F write) {
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const bool gone = falls_whole(join.dropout, i) || falls_whole(join.layer, i);
    for (std::int64_t begin = 0; begin < h; begin += kColumns) {
      const std::int64_t count = std::min(kColumns, h - begin);
      float scale[kColumns];
      std::fill_n(scale, count, 1.0f);
      for (const Drop* drop : {&join.dropout, &join.layer}) {
        if (!gone && by_element(*drop)) apply(*drop, scale, (drop->first_row + i) * h + begin, count);
      }
      write(i, begin, count, gone ? nullptr : scale);
    }
  }
}

}  // namespace

// What falls is not read: it may never have been computed, or be no number.
void join(Tensor y, Tensor residual, Tensor branch, const Join& options) {
  const std::int64_t n = y.shape[0], h = y.shape[1];
  for_type(y.dtype, [&]<class A>(A) {
    A* ys = y.as<A>();
    const A *rs = optional<A>(residual), *branches = branch.as<A>(), *biases = optional<A>(options.bias);
    for_scaled(n, h, options, [=](std::int64_t i, std::int64_t begin, std::int64_t count, const float* scale) {
      A* out = ys + i * h + begin;
      const A *r = rs ? rs + i * h + begin : nullptr, *x = branches + i * h + begin, *b = biases ? biases + begin : nullptr;
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        const float s = scale ? scale[j] : 0.0f, v = s == 0 ? 0.0f : s * (wide(x[j]) + (b ? wide(b[j]) : 0.0f));
        out[j] = rounded<A>((r ? wide(r[j]) : 0.0f) + v);
      }
    });
  });
}

void join_backward(Tensor d_branch, Tensor dy, const Join& options) {
  const std::int64_t n = dy.shape[0], h = dy.shape[1];
  for_type(dy.dtype, [&]<class A>(A) {
    A* ds = d_branch.as<A>();
    const A* dys = dy.as<A>();
    for_scaled(n, h, options, [=](std::int64_t i, std::int64_t begin, std::int64_t count, const float* scale) {
      A* out = ds + i * h + begin;
      const A* d = dys + i * h + begin;
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) out[j] = rounded<A>(scale && scale[j] != 0 ? scale[j] * wide(d[j]) : 0.0f);
    });
  });
}

}  // namespace offramp::cpu
