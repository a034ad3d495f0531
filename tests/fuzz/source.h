// Reads of every tensor that a source has what loading would: the first elements and the last.
#pragma once
#include <vector>

#include "checkpoint/tensor_source.h"

namespace offramp::fuzz {

inline void read_ends(TensorSource& source) {
  constexpr std::int64_t kMost = 1024;
  for (const TensorEntry& entry : source.entries()) {
    const std::int64_t elements = entry.shape.elements(), count = std::min(kMost, elements);
    std::vector<float> values(static_cast<std::size_t>(count));
    source.read(entry.name, 0, count, values.data());
    source.read(entry.name, elements - count, count, values.data());
  }
}

}  // namespace offramp::fuzz
