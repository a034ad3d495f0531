// Pieces of vectorised loops: an exponential that the compiler vectorises, and reductions whose order is written down rather than
// left to the compiler (32 lanes, then a tree), so that they vectorise and are the same at every alignment.
//
//   const float squares = sum_lanes(width, [=](std::int64_t j) { return x[j] * x[j]; });
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

namespace offramp::cpu {

// e^x within 1.5 * 2^-24 of itself where that is no subnormal number; below -104 exactly 0, above 88.73 infinity, NaN stays NaN.
// The reduction and the polynomial are those of Cephes' expf; 2^n is applied in two halves so that overflow and gradual underflow
// come out by themselves. (Clamping x beforehand is slower: the compiler follows each bound through the whole computation.)
static inline float exp_fast(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t power = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kRound));
  const std::int32_t half = power >> 1;
  const float a = std::bit_cast<float>(static_cast<std::uint32_t>(half + 127) << 23);
  const float b = std::bit_cast<float>(static_cast<std::uint32_t>(power - half + 127) << 23);
  const float y = x < -104.0f ? 0.0f : p * a * b;  // what is beyond either end is no number until here
  return x > 89.0f ? std::numeric_limits<float>::infinity() : y;
}

inline constexpr int kFoldLanes = 32;  // two registers of AVX-512: two chains of additions in flight

// Folds term(0) .. term(count - 1), starting from `start`: lane l takes terms l, l + 32, ...; the lanes meet in a tree.
template <class T, class Term, class Join>
inline T fold_lanes(std::int64_t count, T start, Term term, Join join) {
  T lane[kFoldLanes];
  for (T& l : lane) l = start;
  std::int64_t i = 0;
  for (; i + kFoldLanes <= count; i += kFoldLanes) {
#pragma omp simd
    for (int l = 0; l < kFoldLanes; ++l) lane[l] = join(lane[l], term(i + l));
  }
  for (int l = 0; i < count; ++i, ++l) lane[l] = join(lane[l], term(i));
  for (int width = kFoldLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = join(lane[l], lane[l + width]);
  }
  return lane[0];
}

template <class Term>
inline float sum_lanes(std::int64_t count, Term term) {
  return fold_lanes(count, 0.0f, term, [](float a, float b) { return a + b; });
}

}  // namespace offramp::cpu
