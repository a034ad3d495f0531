// The one addition of all transports, internal to comm/: element by element in rank order, f32 and f64 as such, bf16 in f32 and
// rounded once. Who adds which elements, and how many at a time, changes no bit.
#pragma once
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace offramp {

// out = of[0] + of[1] + ..., each of n elements; out may be one of them, and overlaps no other in part.
void add_in_rank_order(std::byte* out, const std::vector<const std::byte*>& of, std::int64_t n, DType dtype);

}  // namespace offramp
