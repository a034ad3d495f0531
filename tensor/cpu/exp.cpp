#include "tensor/cpu/exp.h"

#include <algorithm>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {

void exp_of_loops(float* y, const float* x, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) y[i] = exp_fast(x[i]);
}

void exp2_of_attention(float* y, const float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t used = std::min<std::int64_t>(kLanes, count - i);
    float lanes[kLanes] = {};
    std::copy_n(x + i, used, lanes);
    store(lanes, exp2(load(lanes)));
    std::copy_n(lanes, used, y + i);
  }
}

}  // namespace offramp::cpu
