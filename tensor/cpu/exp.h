// Vectors of floats, for products and attention: an exponential, sums and transposes in whole registers. GCC's vector extensions serve
// every instruction set from one source. Everything is `static`, because files of other folders may be compiled for a smaller processor.
// (vector_math.h has an exponential for plain loops, of which the compiler makes half registers.)
//
//   Floats x = load(p);            // kLanes floats from any address
//   store(p, exp2(x - maximum));   // within 1.5 * 2^-24 of itself; below -126 exactly 0, from 128 on infinity, NaN stays NaN
//                                  // p may point to bf16: widened when read, rounded when written
#pragma once
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <limits>

#include "tensor/bf16.h"

namespace offramp::cpu {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * sizeof(bf16))));

static inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

static inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }

static inline Floats load(const bf16* p) {
  Halves x;
  std::memcpy(&x, p, sizeof x);
  return (Floats)(__builtin_convertvector(x, Words) << 16);
}

// The upper halves of words, rounded as bf16's constructor does (the processor's instruction takes subnormal numbers for 0).
static inline Halves rounded(Floats x) {
#ifdef __AVX512BF16__
  return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
  const Words word = (Words)x;
  return __builtin_convertvector(x == x ? (word + 0x7FFF + (word >> 16 & 1)) >> 16 : word >> 16 | 0x40, Halves);
#endif
}

static inline void store(bf16* p, Floats x) {
  const Halves half = rounded(x);
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

static inline Floats broadcast(float x) { return x - Floats{}; }

// lane_numbers(start)[l] = start + l.
static inline Ints lane_numbers(std::int32_t start) {
  Ints lanes{};
  for (int l = 0; l < kLanes; ++l) lanes[l] = l;
  return lanes + start;
}

// The lanes in a fixed order, a tree, so that a sum has the same bits every time.
static inline float sum_of(Floats x) {
  for (int width = kLanes / 2; width > 0; width /= 2) x += __builtin_shuffle(x, lane_numbers(width) % kLanes);
  return x[0];
}

static inline float maximum_of(Floats x) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    const Floats other = __builtin_shuffle(x, lane_numbers(width) % kLanes);
    x = x > other ? x : other;
  }
  return x[0];
}

// rows[i][j] becomes rows[j][i]: blocks of 1, 2, 4, ... lanes change places with those across the diagonal.
static inline void transpose(Floats (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int width = 1; width < kLanes; width *= 2) {
    const Ints lane = lane_numbers(0), upper = (lane & width) != 0;
    const Ints first = upper ? lane + kLanes - width : lane, second = upper ? lane + kLanes : lane + width;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & width) continue;
      const Floats a = rows[i], b = rows[i + width];
      rows[i] = __builtin_shuffle(a, b, first);
      rows[i + width] = __builtin_shuffle(a, b, second);
    }
  }
}

inline constexpr float kLog2e = 1.44269504f;

// 2^x = 2^n 2^r, n = round(x), |r| <= 1/2, which is exact. The polynomial is the one of least relative error with p(0) = 1.
static inline Floats exp2(Floats x) {
  x = x > 128.0f ? broadcast(128.0f) : x;  // written so that NaN passes
  const Floats shifted = x + 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  const Floats r = x - (shifted - 12582912.0f);
  Floats p = r * 0.00015353362f + 0.0013398875f;
  p = p * r + 0.00961843692f;
  p = p * r + 0.0555033237f;
  p = p * r + 0.240226477f;
  p = p * r + 0.693147182f;
  p = p * r + 1.0f;
  const Floats y = (Floats)((Words)p + ((Words)shifted << 23));  // times 2^n
  return x < -126.0f ? Floats{} : y;
}

}  // namespace offramp::cpu
