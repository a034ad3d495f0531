// The small matrix product inside attention: kTileRows rows at a time, in registers. Operands are blocks in scratch, padded with
// zeros to whole tiles, so there are no remainders. The left operand is read element by element and may lie in memory either way;
// the right one is row-major.
//
//   for (i = 0; i < rows; i += kTileRows) tile_row(c + i * c_stride, c_stride, {a + i * a_stride, a_stride, 1}, b, b_stride, ...);
#pragma once
#include "tensor/cpu/exp.h"

namespace offramp::cpu {

inline constexpr int kTileRows = kLanes == 16 ? 8 : 4;  // 16 or 8 of the 32 or 16 registers hold sums of two vectors a row
static_assert(kLanes % kTileRows == 0);

constexpr std::int64_t round_up(std::int64_t x, std::int64_t unit) { return (x + unit - 1) / unit * unit; }

struct Left {
  const float* data;
  std::int64_t row, column;  // steps in memory
};
struct Right {
  const float* data;
  std::int64_t row;
};
struct Target {
  float* data;
  std::int64_t row;
};

// c[kTileRows, V * kLanes] = or += a[kTileRows, depth] b[depth, V * kLanes].
template <int V, bool accumulate>
static inline void tile(Target c, Left a, Right b, std::int64_t depth) {
  Floats sum[kTileRows][V];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = accumulate ? load(c.data + r * c.row + v * kLanes) : Floats{};
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    Floats right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = load(b.data + k * b.row + v * kLanes);
    const float* left = a.data + k * a.column;
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += right[v] * left[r * a.row];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(c.data + r * c.row + v * kLanes, sum[r][v]);
  }
}

// The same over any whole number of vectors of columns.
template <bool accumulate>
static inline void tile_row(Target c, Left a, Right b, std::int64_t depth, std::int64_t columns) {
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) tile<2, accumulate>({c.data + j, c.row}, a, {b.data + j, b.row}, depth);
  if (j < columns) tile<1, accumulate>({c.data + j, c.row}, a, {b.data + j, b.row}, depth);
}

}  // namespace offramp::cpu
