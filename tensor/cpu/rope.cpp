#include <cmath>
#include <vector>

#include "tensor/check.h"
#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"

namespace offramp::cpu {

void rope_table(Tensor table, const RopeFrequencies& frequencies) {
  const std::int64_t positions = table.shape[0], d = table.shape[1], half = d / 2;
  float* t = table.as<float>();
  std::vector<double> turns(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) turns[static_cast<std::size_t>(i)] = frequencies.at(i, d);
#pragma omp parallel for if (positions * d > kParallelElements)
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * turns[static_cast<std::size_t>(i)];
      t[p * d + i] = static_cast<float>(std::cos(angle));
      t[p * d + half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

namespace {

// (a, b) -> (a cos - b sin, b cos + a sin) for the pairs (i, i + d/2) of one head.
template <class A>
void rotate(A* head, const float* table, std::int64_t half, float sign) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = wide(head[i]), b = wide(head[half + i]), c = table[i], s = sign * table[half + i];
    head[i] = rounded<A>(a * c - b * s);
    head[half + i] = rounded<A>(b * c + a * s);
  }
}

}  // namespace

void rope(Tensor qkv, Tensor table, const Sequences& sequences, bool inverse) {
  const std::int64_t n = qkv.shape[0], groups = qkv.shape[1], slots = qkv.shape[2], d = qkv.shape[3];
  const std::int32_t* positions = optional<std::int32_t>(sequences.positions);
  for (std::int64_t i = 0; positions && i < n; ++i) {
    OFFRAMP_CHECK(positions[i] >= 0 && positions[i] < table.shape[0], "[rope] position {} of row {}, the table has {}", positions[i], i,
                  table.shape[0]);
  }
  const float *t = table.as<float>(), sign = inverse ? -1.0f : 1.0f;
  for_type(qkv.dtype, [&]<class A>(A) {
    A* heads = qkv.as<A>();
#pragma omp parallel for if (n * groups * slots * d > kParallelElements)
    for (std::int64_t i = 0; i < n; ++i) {
      const float* angles = t + d * (positions ? positions[i] : i % sequences.length);
      for (std::int64_t slot = 0; slot < groups * slots; ++slot) {
        if (slot % slots == 1) continue;  // the value of a group is not rotated
        rotate(heads + (i * groups * slots + slot) * d, angles, d / 2, sign);
      }
    }
  });
}

}  // namespace offramp::cpu
