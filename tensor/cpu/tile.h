// The small matrix product inside attention: kTileRows rows at a time, in registers. Operands are blocks in scratch, padded with
// zeros to whole tiles, so there are no remainders. The left operand is read word by word and may lie in memory either way; the
// right one is row-major. A word of 32 bits is one step of a sum: a float, or two bf16 that are multiplied at once where the
// processor can. Memory of words is float* whatever they are.
//
//   for (i = 0; i < rows; i += kTileRows)
//     tile_row<T, false>(c + i * c_stride, c_stride, {a + i * a_stride, a_stride, 1}, b, b_stride, depth, columns);
#pragma once
#include <type_traits>

#include "tensor/cpu/exp.h"

namespace offramp::cpu {

inline constexpr int kTileRows = kLanes == 16 ? 8 : 4;  // 16 or 8 of the 32 or 16 registers hold sums of two vectors a row
static_assert(kLanes % kTileRows == 0);

template <class T>
inline constexpr int kPerWord = static_cast<int>(sizeof(float) / sizeof(T));

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

// sum + left * right, a word in each lane.
template <class T>
static inline Floats multiply_add(Floats sum, float left, Floats right) {
  if constexpr (std::is_same_v<T, float>) return sum + right * left;
#ifdef __AVX512BF16__
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)broadcast(left), (__m512bh)right);
#else
  const Words a = (Words)broadcast(left), b = (Words)right;
  return sum + (Floats)(a << 16) * (Floats)(b << 16) + (Floats)(a & 0xFFFF0000) * (Floats)(b & 0xFFFF0000);
#endif
}

// c[kTileRows, V * kLanes] = or += a[kTileRows, depth] b[depth, V * kLanes]. Inlined where its steps are known, into functions that
// are not inlined themselves: left to itself GCC does neither, or makes one function that has too few registers.
template <class T, int V, bool accumulate>
[[gnu::always_inline]] static inline void tile(Target c, Left a, Right b, std::int64_t depth) {
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
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add<T>(sum[r][v], left[r * a.row], right[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(c.data + r * c.row + v * kLanes, sum[r][v]);
  }
}

// The same over any whole number of vectors of columns.
template <class T, bool accumulate>
static inline void tile_row(Target c, Left a, Right b, std::int64_t depth, std::int64_t columns) {
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) tile<T, 2, accumulate>({c.data + j, c.row}, a, {b.data + j, b.row}, depth);
  if (j < columns) tile<T, 1, accumulate>({c.data + j, c.row}, a, {b.data + j, b.row}, depth);
}

}  // namespace offramp::cpu
