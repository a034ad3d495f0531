// bf16: the upper half of an fp32, so 8 bits of precision and fp32's range. Storage only: whatever computes widens to float first.
#pragma once
#include <bit>
#include <cstdint>

namespace offramp {

struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  // To nearest, ties to even; NaN stays NaN (and quiet), what rounds beyond the largest becomes infinity.
  explicit constexpr bf16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool nan = (word & 0x7FFFFFFF) > 0x7F800000;
    const std::uint32_t rounded = (word + 0x7FFF + (word >> 16 & 1)) >> 16;
    bits = static_cast<std::uint16_t>(nan ? word >> 16 | 0x40 : rounded);
  }
  explicit constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

}  // namespace offramp
