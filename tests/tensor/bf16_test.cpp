// The half-width float: every value, every tie, both as the type converts and as the kernels do.
#include "tensor/bf16.h"

#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;
constexpr std::uint32_t kAll = 1 << 16;

bf16 of_bits(std::uint32_t bits) {
  bf16 value;
  value.bits = static_cast<std::uint16_t>(bits);
  return value;
}
float float_of(std::uint32_t word) { return std::bit_cast<float>(word); }

// By distances, not by carries: of the two values around x the nearer, of two equally near the one whose last bit is 0.
bf16 nearest(float x) {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(x), below = word >> 16;
  if (std::isnan(x)) return of_bits(below | 0x40);
  if (std::isinf(x)) return of_bits(below);
  const auto value = [](std::uint32_t bits) {  // what would come after the largest counts as 2^128
    return (bits & 0x7FFF) == 0x7F80 ? (bits & 0x8000 ? -0x1p128 : 0x1p128) : double{float_of(bits << 16)};
  };
  const double down = std::abs(x - value(below)), up = std::abs(value(below + 1) - x);
  return of_bits(down < up || (down == up && below % 2 == 0) ? below : below + 1);
}

TEST(Bf16, EveryValueComesBack) {
  for (std::uint32_t bits = 0; bits < kAll; ++bits) {
    const float wide = static_cast<float>(of_bits(bits));
    const std::uint32_t quiet = std::isnan(wide) ? bits | 0x40 : bits;
    ASSERT_EQ(bf16(wide).bits, quiet) << bits;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(wide), bits << 16) << bits;
  }
}

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  for (std::uint32_t bits = 0; bits < kAll; ++bits) {
    for (const std::uint32_t low : {0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF}) {
      const float x = float_of(bits << 16 | low);
      ASSERT_EQ(bf16(x).bits, nearest(x).bits) << bits << " " << low;
    }
  }
}

TEST(Bf16, TheEnds) {
  const float largest = float_of(0x7F7F0000), infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(bf16(float_of(0x7F7F7FFF))), largest);
  EXPECT_EQ(static_cast<float>(bf16(float_of(0x7F7F8000))), infinity);
  EXPECT_EQ(static_cast<float>(bf16(-infinity)), -infinity);
  EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(float_of(0x7F800001))))) << "a NaN whose upper half is infinity's";
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(float_of(0xFFFFFFFF))))) << "a NaN whose carry would wrap around";
  static_assert(static_cast<float>(bf16(1.0f)) == 1.0f);
}

// The copy is the kernels' vectorised conversion.
TEST(Bf16, CopiesConvertAlike) {
  Arena arena(Backing::host, 1 << 22);
  Context context = context_over(arena);
  const std::int64_t count = kAll;
  const Tensor wide = arena.tensor({count}, DType::f32), narrow = arena.tensor({count}, DType::bf16);
  for (const std::uint32_t low : {0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF}) {
    for (std::uint32_t bits = 0; bits < kAll; ++bits) wide.as<float>()[bits] = float_of(bits << 16 | low);
    copy(context, narrow, wide);
    for (std::uint32_t bits = 0; bits < kAll; ++bits) {
      ASSERT_EQ(narrow.as<bf16>()[bits].bits, nearest(float_of(bits << 16 | low)).bits) << bits << " " << low;
    }
  }
  for (std::uint32_t bits = 0; bits < kAll; ++bits) narrow.as<bf16>()[bits] = of_bits(bits);
  copy(context, wide, narrow);
  for (std::uint32_t bits = 0; bits < kAll; ++bits) ASSERT_EQ(std::bit_cast<std::uint32_t>(wide.as<float>()[bits]), bits << 16) << bits;
}

}  // namespace
}  // namespace offramp::testing
