// Random numbers and activities.
#include "tensor/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <thread>

#include "tensor/activity.h"

namespace offramp {
namespace {

// The known answers that the paper's authors publish with their library (Random123, philox4x32 with 10 rounds).
TEST(Philox, KnownAnswers) {
  const std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}), (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, EveryPartOfTheKeyMatters) {
  const Key key{.seed = 1, .use = Use::init, .id = 2};
  std::set<std::uint64_t> seen{bits(key, 3)};
  seen.insert(bits(key, 4));
  seen.insert(bits(key, 3 + (std::uint64_t{1} << 40)));
  seen.insert(bits({.seed = 2, .use = Use::init, .id = 2}, 3));
  seen.insert(bits({.seed = 1 + (std::uint64_t{1} << 40), .use = Use::init, .id = 2}, 3));
  seen.insert(bits({.seed = 1, .use = Use::shuffle, .id = 2}, 3));
  seen.insert(bits({.seed = 1, .use = Use::init, .id = 3}, 3));
  seen.insert(bits({.seed = 1, .use = Use::init, .id = 2 + (std::uint64_t{1} << 40)}, 3));
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(bits(key, 3), bits(key, 3));
}

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0;
};

Moments moments_of(float (*draw)(Key, std::uint64_t), std::uint64_t count) {
  const Key key{.seed = 5, .use = Use::init, .id = hash("model.embed_tokens.weight")};
  double power[5] = {};
  for (std::uint64_t i = 0; i < count; ++i) {
    const double x = draw(key, i);
    power[1] += x, power[2] += x * x, power[3] += x * x * x, power[4] += x * x * x * x;
  }
  for (double& p : power) p /= static_cast<double>(count);
  return {power[1], power[2] - power[1] * power[1], power[3], power[4]};
}

// Bounds of five standard errors of 2^18 draws; a standard error is sqrt(variance of the power / 2^18).
TEST(Random, NormalMoments) {
  const Moments m = moments_of(normal, 1 << 18);
  const double error = 5 / 512.0;
  EXPECT_NEAR(m.mean, 0, error);
  EXPECT_NEAR(m.variance, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(m.skew, 0, error * std::sqrt(15.0));
  EXPECT_NEAR(m.kurtosis, 3, error * std::sqrt(96.0));
}

TEST(Random, UniformMomentsAndRange) {
  const Moments m = moments_of(uniform, 1 << 18);
  const double error = 5 / 512.0;
  EXPECT_NEAR(m.mean, 0.5, error * std::sqrt(1.0 / 12));
  EXPECT_NEAR(m.variance, 1.0 / 12, error * std::sqrt(1.0 / 180));
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    const float u = uniform({.seed = 9}, i);
    ASSERT_TRUE(u >= 0 && u < 1) << i;
  }
}

TEST(Random, NeighboursAreUncorrelated) {
  double product = 0;
  const std::uint64_t count = 1 << 18;
  for (std::uint64_t i = 0; i < count; ++i)
    product += static_cast<double>(normal({.seed = 6}, i)) * static_cast<double>(normal({.seed = 6}, i + 1));
  EXPECT_NEAR(product / static_cast<double>(count), 0, 5 / 512.0);
}

// The published constants of FNV-1a.
TEST(Random, HashIsFnv1a) {
  EXPECT_EQ(hash(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash("foobar"), 0x85944171f73967e8u);
}

TEST(Activity, SaysWhatIsGoingOn) {
  Activity activity;
  EXPECT_EQ(activity.text(), "starting");
  activity.begin("step 12, F3@1");
  EXPECT_EQ(activity.text(), "step 12, F3@1");
  activity.wait_for("receive of 64 bytes from rank 2");
  EXPECT_EQ(activity.text(), "step 12, F3@1, waiting for receive of 64 bytes from rank 2");
  activity.wait_for("");
  EXPECT_EQ(activity.text(), "step 12, F3@1");
  activity.wait_for("rank 3");
  activity.begin("step 12, B3@1");
  EXPECT_EQ(activity.text(), "step 12, B3@1") << "a new action waits for nobody";
}

TEST(Activity, WaitingIsNoProgress) {
  Activity activity;
  const auto start = activity.beats();
  activity.begin("step 1");
  const auto begun = activity.beats();
  EXPECT_GT(begun, start);
  activity.wait_for("rank 1");
  EXPECT_EQ(activity.beats(), begun);
  activity.beat();
  EXPECT_GT(activity.beats(), begun);
}

TEST(Activity, IsReadWhileItIsWritten) {
  Activity activity;
  std::thread reader([&] {
    for (int i = 0; i < 1000; ++i) EXPECT_NE(activity.text(), "");
  });
  for (int i = 0; i < 1000; ++i) activity.begin(std::string(1 + static_cast<std::size_t>(i) % 100, 'x'));
  reader.join();
}

}  // namespace
}  // namespace offramp
