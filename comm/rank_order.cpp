#include "comm/rank_order.h"

#include <algorithm>
#include <array>

#include "tensor/check.h"

namespace offramp {
namespace {

// A block at a time, so that out may be one of the terms.
template <class T, class Sum>
void add(std::byte* out, const std::vector<const std::byte*>& of, std::int64_t n) {
  constexpr std::int64_t kBlock = 1024;
  std::array<Sum, kBlock> sum;
  const auto values = [&](std::size_t r, std::int64_t begin) { return reinterpret_cast<const T*>(of[r]) + begin; };
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    const T* first = values(0, begin);
    for (std::int64_t i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] = static_cast<Sum>(first[i]);
    for (std::size_t r = 1; r < of.size(); ++r) {
      const T* x = values(r, begin);
      for (std::int64_t i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] += static_cast<Sum>(x[i]);
    }
    T* to = reinterpret_cast<T*>(out) + begin;
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(sum[static_cast<std::size_t>(i)]);
  }
}

}  // namespace

void add_in_rank_order(std::byte* out, const std::vector<const std::byte*>& of, std::int64_t n, DType dtype) {
  switch (dtype) {
    case DType::f32:
      return add<float, float>(out, of, n);
    case DType::f64:
      return add<double, double>(out, of, n);
    case DType::bf16:
      return add<bf16, float>(out, of, n);
    case DType::i32:
    case DType::none:
      break;
  }
  broken("dtype", fmt::format("[comm] a sum of {}", name_of(dtype)));
}

}  // namespace offramp
