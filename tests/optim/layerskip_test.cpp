// LayerSkip's formulas, with values computed by hand.
#include "optim/layerskip.h"

#include <gtest/gtest.h>

#include <cmath>

namespace offramp {
namespace {

constexpr double kRoot = 1.4142135623730951;  // 2^(1/2)
constexpr double kTolerance = 1e-15;          // of sums of a few doubles below 1

using Weights = std::vector<double>;

void expect_weights(const Weights& weights, const Weights& expected) {
  ASSERT_EQ(weights.size(), expected.size());
  for (std::size_t i = 0; i < weights.size(); ++i) EXPECT_NEAR(weights[i], expected[i], kTolerance) << i;
}

TEST(LayerSkipRate, GrowsWithDepth) {
  const LayerSkipConfig config{.p_max = 0.5};
  const LayerSkipExtent extent{.layers = 3, .steps = 10};
  for (const std::int64_t t : {0, 4, 9}) {  // constant in time
    EXPECT_EQ(layerskip_rate(config, extent, 0, t), 0);
    EXPECT_NEAR(layerskip_rate(config, extent, 1, t), 0.5 * (kRoot - 1), kTolerance);
    EXPECT_EQ(layerskip_rate(config, extent, 2, t), 0.5);
  }
}

TEST(LayerSkipRate, GrowsInTime) {
  const LayerSkipConfig config{.p_max = 0.5, .time = "exponential"};
  const LayerSkipExtent extent{.layers = 3, .steps = 5};
  for (const std::int64_t l : {0, 1, 2}) EXPECT_EQ(layerskip_rate(config, extent, l, 0), 0);
  EXPECT_NEAR(layerskip_rate(config, extent, 2, 2), 0.5 * (kRoot - 1), kTolerance);
  EXPECT_NEAR(layerskip_rate(config, extent, 1, 2), 0.5 * (kRoot - 1) * (kRoot - 1), kTolerance);
  EXPECT_EQ(layerskip_rate(config, extent, 2, 4), 0.5);
}

TEST(LayerSkipRate, OneLayerOrOneStep) {
  const LayerSkipConfig constant{.p_max = 0.5}, rising{.p_max = 0.5, .time = "exponential"};
  EXPECT_EQ(layerskip_rate(constant, {.layers = 1, .steps = 10}, 0, 9), 0);
  EXPECT_EQ(layerskip_rate(rising, {.layers = 4, .steps = 1}, 3, 0), 0);
  EXPECT_EQ(layerskip_rate(constant, {.layers = 4, .steps = 1}, 3, 0), 0.5);
  EXPECT_EQ(layerskip_rate(constant, {.layers = 4, .steps = 0}, 3, 0), 0.5);  // no steps: a validation only
}

// One character a layer, from the first to the last.
std::string exits_on(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::int64_t t) {
  std::string text;
  for (std::int64_t l = 0; l < extent.layers; ++l) text += layerskip_on(config, extent, l, t) ? 'x' : '.';
  return text;
}

TEST(LayerSkipCurriculum, Rotational) {
  const LayerSkipConfig config{.curriculum = "rotational", .rotation = 3};
  const LayerSkipExtent extent{.layers = 8, .steps = 100};
  const std::vector<std::string> expected = {"x..x..xx", ".x..x..x", "..x..x.x", "x..x..xx"};
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_EQ(exits_on(config, extent, static_cast<std::int64_t>(t)), expected[t]) << t;
  EXPECT_EQ(exits_on({.rotation = 1}, extent, 5), "xxxxxxxx");
  EXPECT_EQ(exits_on({.rotation = 100}, extent, 50), ".......x");
}

TEST(LayerSkipCurriculum, GradualFromTheLastLayerDown) {
  const LayerSkipConfig config{.curriculum = "gradual"};
  const LayerSkipExtent extent{.layers = 4, .steps = 16};  // one more every 2 steps
  const std::vector<std::string> expected = {"...x", "...x", "..xx", "..xx", ".xxx", ".xxx", "xxxx", "xxxx"};
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_EQ(exits_on(config, extent, static_cast<std::int64_t>(t)), expected[t]) << t;
  EXPECT_EQ(exits_on(config, extent, 15), "xxxx");
  // One more every 5/8 of a step: 1.6 after one, 3.2 after two.
  EXPECT_EQ(exits_on(config, {.layers = 4, .steps = 5}, 1), "..xx");
  EXPECT_EQ(exits_on(config, {.layers = 4, .steps = 5}, 2), "xxxx");
  EXPECT_EQ(exits_on(config, {.layers = 4, .steps = 1}, 0), "...x");
}

TEST(LayerSkipWeights, GrowWithDepthAndSumToOne) {
  // L = 8, e_scale 0.2: e(1) = 0.2, e(4) = 0.2 * 10 = 2, e(7) = 7 + 0.2 * 21 = 11.2; in all 13.4.
  const std::vector<int> exits = {2, 5};
  expect_weights(layerskip_weights({}, {8, 10}, exits, 3), {0.2 / 13.4, 2 / 13.4, 11.2 / 13.4});
  // An exit behind the last layer weighs what the final head does: (2, 11.2, 11.2) / 24.4.
  expect_weights(layerskip_weights({}, {8, 10}, std::vector<int>{5, 8}, 3), {2 / 24.4, 11.2 / 24.4, 11.2 / 24.4});
  // The first layer's weighs nothing, and without e_scale no inner exit does.
  expect_weights(layerskip_weights({.e_scale = 1}, {3, 10}, std::vector<int>{1, 2}, 0), {0, 1 / 4.0, 3 / 4.0});
  expect_weights(layerskip_weights({.e_scale = 0}, {8, 10}, exits, 3), {0, 0, 1});
}

TEST(LayerSkipWeights, FollowTheCurriculum) {
  const std::vector<int> exits = {2, 5};  // l = 1 and 4
  const LayerSkipConfig rotational{.curriculum = "rotational", .rotation = 4}, gradual{.curriculum = "gradual"};
  expect_weights(layerskip_weights(rotational, {8, 100}, exits, 0), {0, 2 / 13.2, 11.2 / 13.2});
  expect_weights(layerskip_weights(rotational, {8, 100}, exits, 1), {0.2 / 11.4, 0, 11.2 / 11.4});
  expect_weights(layerskip_weights(rotational, {8, 100}, exits, 2), {0, 0, 1});
  expect_weights(layerskip_weights(gradual, {8, 16}, exits, 2), {0, 0, 1});
  expect_weights(layerskip_weights(gradual, {8, 16}, exits, 3), {0, 2 / 13.2, 11.2 / 13.2});
  expect_weights(layerskip_weights(gradual, {8, 16}, exits, 6), {0.2 / 13.4, 2 / 13.4, 11.2 / 13.4});
}

TEST(LayerSkipWeights, OneLayer) {
  expect_weights(layerskip_weights({}, {1, 10}, {}, 0), {1});
  expect_weights(layerskip_weights({}, {1, 10}, std::vector<int>{1}, 0), {0, 1});
}

TEST(LayerSkip, WhatIsNotKnownIsRefused) {
  EXPECT_ANY_THROW(layerskip_rate({.time = "linear"}, {8, 10}, 1, 1));
  EXPECT_ANY_THROW(layerskip_on({.curriculum = "none"}, {8, 10}, 1, 1));
}

}  // namespace
}  // namespace offramp
