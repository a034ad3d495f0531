// Plain memory: sums, copies, conversions, zeros. Tensors may be strided.
#include <cstring>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"

namespace offramp::cpu {
namespace {

// Calls f(y, x, count) for pieces of two equally shaped tensors that are dense in both; x may be undefined.
template <class Y, class X, class F>
void for_pieces(const Tensor& y, const Tensor& x, F f) {
  Y* ys = reinterpret_cast<Y*>(y.data);
  const X* xs = reinterpret_cast<const X*>(x.data);
  const std::int64_t count = y.elements();
  if (y.contiguous() && (!x.defined() || x.contiguous())) {
#pragma omp parallel for if (count > kParallelElements)
    for (std::int64_t i = 0; i < count; i += kBlock) f(ys + i, x.defined() ? xs + i : nullptr, i + kBlock < count ? kBlock : count - i);
    return;
  }
  const int last = y.shape.rank - 1;
  const auto inner = static_cast<std::size_t>(last);
  const bool dense = y.stride[inner] == 1 && (!x.defined() || x.stride[inner] == 1);
  const std::int64_t piece = dense ? y.shape[last] : 1, pieces = piece > 0 ? count / piece : 0;
#pragma omp parallel for if (count > kParallelElements)
  for (std::int64_t p = 0; p < pieces; ++p) {
    std::int64_t rest = p, y_at = 0, x_at = 0;
    for (int i = dense ? last - 1 : last; i >= 0; rest /= y.shape[i], --i) {
      y_at += rest % y.shape[i] * y.stride[static_cast<std::size_t>(i)];
      x_at += rest % y.shape[i] * x.stride[static_cast<std::size_t>(i)];
    }
    f(ys + y_at, x.defined() ? xs + x_at : nullptr, piece);
  }
}

template <class Y, class X>
void convert(const Tensor& y, const Tensor& x) {
  for_pieces<Y, X>(y, x, [](Y* to, const X* from, std::int64_t count) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = rounded<Y>(wide(from[i]));
  });
}

template <class T>
void add_pieces(const Tensor& y, const Tensor& x) {
  for_pieces<T, T>(y, x, [](T* to, const T* from, std::int64_t count) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = rounded<T>(wide(to[i]) + wide(from[i]));
  });
}

// f with an element of the type's size: what only moves bytes needs to know no more.
template <class F>
void for_size(DType dtype, F f) {
  if (size_of(dtype) == 8) return f(double{});
  if (size_of(dtype) == 4) return f(float{});
  f(std::uint16_t{});
}

}  // namespace

void add(Tensor y, Tensor x) {
  if (y.dtype == DType::f64) return add_pieces<double>(y, x);
  for_type(y.dtype, [&]<class A>(A) { add_pieces<A>(y, x); });
}

void scale(Tensor y, Tensor factor) {
  const float by = *factor.as<float>();
  for_pieces<float, float>(y, {}, [by](float* to, const float*, std::int64_t count) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] *= by;
  });
}

void copy(Tensor y, Tensor x) {
  if (y.dtype != x.dtype) return y.dtype == DType::bf16 ? convert<bf16, float>(y, x) : convert<float, bf16>(y, x);
  for_size(y.dtype, [&]<class T>(T) {
    for_pieces<T, T>(y, x,
                     [](T* to, const T* from, std::int64_t count) { std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T)); });
  });
}

void fill_zero(Tensor y) {
  for_size(y.dtype, [&]<class T>(T) {
    for_pieces<T, T>(y, {}, [](T* to, const T*, std::int64_t count) { std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(T)); });
  });
}

}  // namespace offramp::cpu
