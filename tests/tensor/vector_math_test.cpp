// The exponentials and the sums that vectorised loops are made of.
#include "tensor/cpu/vector_math.h"

#include "registry.h"
#include "tensor/cpu/kernels.h"

namespace offramp::testing {
namespace {

// Both exponentials as the kernels have them: compiled for the processor, with or without fused multiply-adds.
struct Exponential {
  void (*of)(float*, const float*, std::int64_t);
  double (*exact)(double);
  float zero_below, normal_from;  // exactly 0 below
  float finite_below, infinite_from;
};
const Exponential kLoops{cpu::exp_of_loops, [](double x) { return std::exp(x); }, -104.0f, -87.0f, 88.72f, 89.0f};
const Exponential kAttention{cpu::exp2_of_attention, [](double x) { return std::exp2(x); }, -126.0f, -126.0f, 127.99f, 128.0f};

float exp_at(const Exponential& e, float x) {
  float y = 0;
  e.of(&y, &x, 1);
  return y;
}

TEST(Exponential, IsWithinAUnitAndAHalf) {
  for (const Exponential& e : {kLoops, kAttention}) {
    std::vector<float> x;
    for (float at = e.normal_from; at < e.finite_below; at += 0.000731f) x.push_back(at);
    for (const float at : {0x1p-30f, -0x1p-30f, 0.34657359f, -0.34657359f, 0.5f, -0.5f, 1.0f}) x.push_back(at);  // edges of the reductions
    std::vector<float> y(x.size());
    e.of(y.data(), x.data(), static_cast<std::int64_t>(x.size()));
    double worst = 0;  // in units of 2^-24 of the value
    for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(y[i] / e.exact(static_cast<double>(x[i])) - 1) * 0x1p24);
    EXPECT_LT(worst, 1.5);
  }
}

TEST(Exponential, AtTheEdges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Exponential& e : {kLoops, kAttention}) {
    EXPECT_EQ(exp_at(e, 0), 1.0f);
    for (const float x : {-kInfinity, -1e30f, e.zero_below - 0.01f}) EXPECT_EQ(exp_at(e, x), 0.0f) << x;
    for (const float x : {e.infinite_from, 1e30f, kInfinity}) EXPECT_EQ(exp_at(e, x), kInfinity) << x;
    EXPECT_TRUE(std::isfinite(exp_at(e, e.finite_below)));
    EXPECT_GT(exp_at(e, e.normal_from), 0.0f);
    EXPECT_TRUE(std::isnan(exp_at(e, std::numeric_limits<float>::quiet_NaN())));
  }
}

TEST(VectorMath, FoldTakesEveryTermOnceAtEveryLength) {
  for (std::int64_t n = 0; n < 130; ++n) {
    const auto sum = cpu::sum_lanes(n, [](std::int64_t i) { return static_cast<float>(i + 1); });
    EXPECT_EQ(sum, static_cast<float>(n * (n + 1) / 2));
  }
}

}  // namespace
}  // namespace offramp::testing
