#include "checkpoint/float_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace offramp {
namespace {

TEST(FloatType, HalvesSurviveTheWayThroughF32) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float wide = from_f16(half);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(from_f16(to_f16(wide))));
    } else {
      EXPECT_EQ(to_f16(wide), half) << bits;
    }
  }
}

TEST(FloatType, HalvesMeanWhatIeeeSays) {
  EXPECT_EQ(from_f16(0x3C00), 1.0f);
  EXPECT_EQ(from_f16(0xC500), -5.0f);
  EXPECT_EQ(from_f16(0x7BFF), kLargestF16);
  EXPECT_EQ(from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(from_f16(0x83FF), -1023 * 0x1p-24f);
  EXPECT_EQ(from_f16(0x7C00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(from_f16(0x8000)));
}

// Between any two neighbours: the middle goes to the even one, what is nearer to one goes there.
TEST(FloatType, HalvesAreRoundedToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = from_f16(static_cast<std::uint16_t>(bits)), high = from_f16(static_cast<std::uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(to_f16(middle), bits + bits % 2) << bits;
    EXPECT_EQ(to_f16(std::nextafter(middle, low)), bits) << bits;
    EXPECT_EQ(to_f16(-std::nextafter(middle, high)), (bits + 1) | 0x8000) << bits;
  }
  EXPECT_EQ(to_f16(65519.996f), 0x7BFF);
  EXPECT_EQ(to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(to_f16(-1e30f), 0xFC00);
}

TEST(FloatType, BytesStandAtAnyAddress) {
  const std::vector<float> values = {1.0f, -0.5f, 0x1p-14f, 1000.0f};
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    std::vector<std::byte> bytes(values.size() * size_of(type) + 1);
    std::vector<float> back(values.size());
    narrow(type, values, bytes.data() + 1);
    widen(type, bytes.data() + 1, back);
    EXPECT_EQ(back, values) << name_of(type);
    EXPECT_EQ(float_type(name_of(type)), type);
  }
  EXPECT_FALSE(float_type("float32"));
}

}  // namespace
}  // namespace offramp
