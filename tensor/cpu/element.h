// The working types, f32 and bf16, for kernels written once: what is read is widened, computed in float, and rounded when written.
//
//   for_type(x.dtype, [&]<class A>(A) {
//     const A* xs = x.as<A>();
//     A* ys = optional<A>(y);                                     // null where y is undefined
//     for (...) ys[i] = rounded<A>(2 * wide(xs[i]));
//   });
#pragma once
#include <algorithm>

#include "tensor/cpu/kernels.h"

namespace offramp::cpu {

static inline float wide(float x) { return x; }
static inline double wide(double x) { return x; }
static inline float wide(bf16 x) { return static_cast<float>(x); }

// A function, because a conversion written out within a loop under `omp simd` keeps GCC from vectorising it: its temporary object
// becomes one a lane.
template <class A, class Value>
static inline A rounded(Value x) {
  return static_cast<A>(x);
}

template <class F>
void for_type(DType dtype, F f) {
  if (dtype == DType::bf16) return f(bf16{});
  f(float{});
}

template <class T>
T* optional(const Tensor& t) {
  return t.defined() ? t.as<T>() : nullptr;
}

// f(begin, end) for blocks of a flat range.
template <class F>
void for_blocks(std::int64_t count, F f) {
#pragma omp parallel for if (count > kParallelElements)
  for (std::int64_t begin = 0; begin < count; begin += kBlock) f(begin, std::min(begin + kBlock, count));
}

}  // namespace offramp::cpu
