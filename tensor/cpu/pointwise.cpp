#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

}  // namespace

void swiglu(Tensor y, Tensor gate_up) {
  const std::int64_t width = gate_up.shape[3], rows = gate_up.shape[0] * gate_up.shape[1];
  for_type(y.dtype, [&]<class A>(A) {
    A* ys = y.as<A>();
    const A* in = gate_up.as<A>();
#pragma omp parallel for if (rows * width > kParallelElements)
    for (std::int64_t i = 0; i < rows; ++i) {
      const A *gate = in + 2 * i * width, *up = gate + width;
      A* out = ys + i * width;
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) {
        const float g = wide(gate[j]);
        out[j] = rounded<A>(g / (1.0f + exp_fast(-g)) * wide(up[j]));
      }
    }
  });
}

// With s = 1 / (1 + e^-g):  d_up = dy g s,   d_gate = dy up s (1 + g (1 - s)).
void swiglu_backward(Tensor d_gate_up, Tensor dy, Tensor gate_up) {
  const std::int64_t width = gate_up.shape[3], rows = gate_up.shape[0] * gate_up.shape[1];
  for_type(dy.dtype, [&]<class A>(A) {
    A* out = d_gate_up.as<A>();
    const A *in = gate_up.as<A>(), *dys = dy.as<A>();
#pragma omp parallel for if (rows * width > kParallelElements)
    for (std::int64_t i = 0; i < rows; ++i) {
      const A *gate = in + 2 * i * width, *up = gate + width, *d = dys + i * width;
      A *d_gate = out + 2 * i * width, *d_up = d_gate + width;
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) {
        const float g = wide(gate[j]), u = wide(up[j]), dj = wide(d[j]), s = sigmoid(g);
        d_gate[j] = rounded<A>(dj * u * s * (1.0f + g * (1.0f - s)));
        d_up[j] = rounded<A>(dj * g * s);
      }
    }
  });
}

namespace {

// The tanh form is x sigmoid(t) with t = 2 sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh(t/2)) / 2 = sigmoid(t).
constexpr float kTwice = 1.5957691216f, kCube = 0.044715f;
float gelu_argument(float x) { return kTwice * (x + kCube * x * x * x); }

}  // namespace

void gelu(Tensor y, Tensor x) {
  for_type(x.dtype, [&]<class A>(A) {
    A* ys = y.as<A>();
    const A* xs = x.as<A>();
    for_blocks(x.elements(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const float v = wide(xs[i]);
        ys[i] = rounded<A>(v * sigmoid(gelu_argument(v)));
      }
    });
  });
}

// With s = sigmoid(t):  gelu' = s + x s (1 - s) t',   t' = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2).
void gelu_backward(Tensor dx, Tensor dy, Tensor x) {
  for_type(x.dtype, [&]<class A>(A) {
    A* dxs = dx.as<A>();
    const A *dys = dy.as<A>(), *xs = x.as<A>();
    for_blocks(x.elements(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const float v = wide(xs[i]), s = sigmoid(gelu_argument(v)), slope = kTwice * (1.0f + 3.0f * kCube * v * v);
        dxs[i] = rounded<A>(wide(dys[i]) * (s + v * s * (1.0f - s) * slope));
      }
    });
  });
}

}  // namespace offramp::cpu
