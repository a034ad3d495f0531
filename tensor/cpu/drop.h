// Random omission, vectorised: the very decisions of falls() in tensor/ops.h, many at a time.
#pragma once
#include <cstdint>

#include "tensor/random.h"

namespace offramp::cpu {

// scale[i] = what the element of number first + i is multiplied by, i < count: 0 where it falls, else 1 / (1 - p).
void drop_scales(float* scale, Key key, float p, std::uint64_t first, std::int64_t count);

}  // namespace offramp::cpu
