#include <cstring>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {

void swiglu(Tensor y, Tensor gate_up) {
  const std::int64_t width = gate_up.shape[3], rows = gate_up.shape[0] * gate_up.shape[1];
  float* ys = y.as<float>();
  const float* in = gate_up.as<float>();
#pragma omp parallel for if (rows * width > kParallelElements)
  for (std::int64_t i = 0; i < rows; ++i) {
    const float *gate = in + 2 * i * width, *up = gate + width;
    float* out = ys + i * width;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) out[j] = gate[j] / (1.0f + exp_fast(-gate[j])) * up[j];
  }
}

// With s = 1 / (1 + e^-g):  d_up = dy g s,   d_gate = dy up s (1 + g (1 - s)).
void swiglu_backward(Tensor d_gate_up, Tensor dy, Tensor gate_up) {
  const std::int64_t width = gate_up.shape[3], rows = gate_up.shape[0] * gate_up.shape[1];
  float* out = d_gate_up.as<float>();
  const float *in = gate_up.as<float>(), *dys = dy.as<float>();
#pragma omp parallel for if (rows * width > kParallelElements)
  for (std::int64_t i = 0; i < rows; ++i) {
    const float *gate = in + 2 * i * width, *up = gate + width, *d = dys + i * width;
    float *d_gate = out + 2 * i * width, *d_up = d_gate + width;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const float g = gate[j], u = up[j], s = 1.0f / (1.0f + exp_fast(-g));
      d_gate[j] = d[j] * u * s * (1.0f + g * (1.0f - s));
      d_up[j] = d[j] * g * s;
    }
  }
}

namespace {

// Calls f(y, x, count) for pieces of two equally shaped tensors that are dense in both; x may be undefined. Elements are T.
template <class T, class F>
void for_pieces(const Tensor& y, const Tensor& x, F f) {
  T* ys = reinterpret_cast<T*>(y.data);
  const T* xs = reinterpret_cast<const T*>(x.data);
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

template <class T>
void add_pieces(const Tensor& y, const Tensor& x) {
  for_pieces<T>(y, x, [](T* to, const T* from, std::int64_t count) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
  });
}

}  // namespace

void add(Tensor y, Tensor x) {
  if (y.dtype == DType::f64) return add_pieces<double>(y, x);
  add_pieces<float>(y, x);
}

void copy(Tensor y, Tensor x) {
  const auto bytes = [](auto* to, const auto* from, std::int64_t count) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(*to));
  };
  if (size_of(y.dtype) == 8) return for_pieces<double>(y, x, bytes);
  for_pieces<float>(y, x, bytes);
}

void fill_zero(Tensor y) {
  const auto bytes = [](auto* to, const auto*, std::int64_t count) { std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(*to)); };
  if (size_of(y.dtype) == 8) return for_pieces<double>(y, {}, bytes);
  for_pieces<float>(y, {}, bytes);
}

}  // namespace offramp::cpu
