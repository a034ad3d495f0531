#include <cmath>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {
namespace {

// The weights of an update: read in full precision, written there and, if the weight itself is rounded, to it.
template <class W>
struct Weights {
  W* weight;
  float* master;
  Weights(const Tensor& rough, const Tensor& full) : weight(rough.as<W>()), master(full.as<float>()) {}
  float operator[](std::int64_t i) const { return master[i]; }
  void set(std::int64_t i, float p) const {
    master[i] = p;
    weight[i] = rounded<W>(p);
  }
};
template <>
struct Weights<float> {
  float* weight;
  Weights(const Tensor& full, const Tensor&) : weight(full.as<float>()) {}
  float operator[](std::int64_t i) const { return weight[i]; }
  void set(std::int64_t i, float p) const { weight[i] = p; }
};

}  // namespace

// Decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), in the order that scalars' comment in ops.h gives.
void adamw(Tensor weight, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW& options) {
  const float* s = scalars.as<float>();
  const float clip = s[1], rate = s[0] * options.lr_scale, correction1 = s[2], correction2 = s[3];
  if (clip == 0) return;
  const float b1 = options.beta1, b2 = options.beta2, c1 = options.one_minus_beta1, c2 = options.one_minus_beta2;
  const float eps = options.eps, decay = rate * options.weight_decay;
  float *ms = m.as<float>(), *vs = v.as<float>();
  const float* g = grad.as<float>();
  for_type(weight.dtype, [&]<class W>(W) {
    const Weights<W> p(weight, master);
    for_blocks(weight.elements(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const float d = g[i] * clip;
        const float m1 = b1 * ms[i] + c1 * d, v1 = b2 * vs[i] + c2 * d * d;
        const float kept = p[i] - decay * p[i];
        ms[i] = m1;
        vs[i] = v1;
        p.set(i, kept - rate * (m1 / correction1) / (std::sqrt(v1 / correction2) + eps));
      }
    });
  });
}

void sgd(Tensor weight, Tensor master, Tensor velocity, Tensor grad, Tensor scalars, const Sgd& options) {
  const float* s = scalars.as<float>();
  const float clip = s[1], rate = s[0] * options.lr_scale, decay = rate * options.weight_decay, momentum = options.momentum;
  if (clip == 0) return;
  float* vs = optional<float>(velocity);
  const float* g = grad.as<float>();
  const float old = options.nesterov ? momentum : 1, fresh = options.nesterov ? 1.0f : 0.0f;  // step = fresh g + old velocity
  for_type(weight.dtype, [&]<class W>(W) {
    const Weights<W> p(weight, master);
    for_blocks(weight.elements(), [=](std::int64_t begin, std::int64_t end) {
      if (vs) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) {
          const float d = g[i] * clip;
          vs[i] = momentum * vs[i] + d;
          p.set(i, p[i] - decay * p[i] - rate * (fresh * d + old * vs[i]));
        }
      } else {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) p.set(i, p[i] - decay * p[i] - rate * (g[i] * clip));
      }
    });
  });
}

void sum_of_squares(Tensor sum, Tensor x, Tensor partial) {
  const std::int64_t count = x.elements(), blocks = blocks_of(count, kBlock);
  const float* xs = x.as<float>();
  double *parts = partial.as<double>(), *total = sum.as<double>();
#pragma omp parallel for if (count > kParallelElements)
  for (std::int64_t b = 0; b < blocks; ++b) {
    const float* block = xs + b * kBlock;
    const std::int64_t length = (b + 1) * kBlock < count ? kBlock : count - b * kBlock;
    const auto square = [=](std::int64_t i) { return static_cast<double>(block[i]) * static_cast<double>(block[i]); };
    parts[b] = fold_lanes(length, 0.0, square, [](double a, double c) { return a + c; });
  }
  double added = 0;
  for (std::int64_t b = 0; b < blocks; ++b) added += parts[b];
  *total += added;
}

}  // namespace offramp::cpu
