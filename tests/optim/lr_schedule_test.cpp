// Values of the tables were computed by hand (and with exact fractions), not with the formula's code.
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "optim/exit_loss.h"
#include "optim/optimizer.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Table = std::vector<std::pair<std::int64_t, double>>;  // step, value

LrSchedule schedule(std::string name, std::int64_t warmup, double min_lr = 0, std::int64_t decay_steps = 0) {
  return {.name = std::move(name), .warmup_steps = warmup, .min_lr = min_lr, .decay_steps = decay_steps};
}

void expect_rates(const LrSchedule& s, double lr, std::int64_t steps, const Table& table) {
  for (const auto& [t, value] : table) EXPECT_NEAR(learning_rate(s, lr, t, steps), value, 1e-15) << s.name << ", step " << t;
}

TEST(LearningRate, WarmsUpFromStepOne) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    expect_rates(schedule(name, 4, 0.25, 2), 1.0, 100, {{1, 0.25}, {2, 0.5}, {3, 0.75}, {4, 1.0}});
  }
}

TEST(LearningRate, Constant) { expect_rates(schedule("constant", 2, 0.1), 0.5, 10, {{1, 0.25}, {2, 0.5}, {3, 0.5}, {10, 0.5}, {11, 0.5}}); }

TEST(LearningRate, Linear) {
  expect_rates(schedule("linear", 2, 0.2), 1.0, 10, {{2, 1.0}, {3, 0.9}, {4, 0.8}, {6, 0.6}, {9, 0.3}, {10, 0.2}, {11, 0.2}});
  expect_rates(schedule("linear", 0), 1.0, 4, {{1, 0.75}, {2, 0.5}, {3, 0.25}, {4, 0.0}});
}

TEST(LearningRate, Cosine) {
  const double root = std::sqrt(0.5);  // cos(45 degrees)
  expect_rates(schedule("cosine", 4, 0.1), 0.9, 12,
               {{4, 0.9}, {6, 0.5 + 0.4 * root}, {8, 0.5}, {10, 0.5 - 0.4 * root}, {12, 0.1}, {13, 0.1}});
  expect_rates(schedule("cosine", 0), 3e-4, 3, {{1, 2.25e-4}, {2, 0.75e-4}, {3, 0.0}});  // cos 60, 120, 180 degrees
}

TEST(LearningRate, WarmupStableDecay) {
  expect_rates(schedule("wsd", 2, 0.2, 4), 1.0, 10, {{1, 0.5}, {3, 1.0}, {6, 1.0}, {7, 0.8}, {8, 0.6}, {9, 0.4}, {10, 0.2}, {11, 0.2}});
  expect_rates(schedule("wsd", 2, 0.2, 0), 1.0, 10, {{9, 1.0}, {10, 1.0}});
}

TEST(LearningRate, WarmupLongerThanTheRun) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    expect_rates(schedule(name, 10), 1.0, 4, {{1, 0.1}, {4, 0.4}});
    expect_rates(schedule(name, 10), 1.0, 10, {{9, 0.9}, {10, 1.0}});
  }
}

TEST(LearningRate, NoStepsAtAll) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    EXPECT_TRUE(std::isfinite(learning_rate(schedule(name, 0), 1.0, 0, 0))) << name;
    EXPECT_TRUE(std::isfinite(learning_rate(schedule(name, 5), 1.0, 0, 0))) << name;
  }
}

TEST(LearningRate, UnknownNameIsOurMistake) {
  EXPECT_THROW(learning_rate(schedule("step", 0), 1.0, 1, 2), Error);
  EXPECT_THROW(learning_rate(schedule("step", 4), 1.0, 1, 8), Error);  // in the warm-up too
}

TEST(ExitLossScale, RunsFromStartToOne) {
  for (const auto& [t, value] : Table{{1, 0.4}, {2, 0.6}, {3, 0.8}, {4, 1.0}, {5, 1.0}}) {
    EXPECT_NEAR(exit_loss_scale("linear", 0.2, 4, t), value, 1e-15) << t;
  }
  for (const auto& [t, value] : Table{{1, 0.25}, {2, 0.75}, {3, 1.0}, {9, 1.0}}) {  // (1 - cos 60) / 2, (1 - cos 120) / 2
    EXPECT_NEAR(exit_loss_scale("cosine", 0.0, 3, t), value, 1e-15) << t;
  }
  EXPECT_NEAR(exit_loss_scale("linear", 2.0, 4, 1), 1.75, 1e-15);  // down is as good as up
}

TEST(ExitLossScale, ConstantIsOne) {
  EXPECT_EQ(exit_loss_scale("constant", 0.2, 100, 1), 1);
  EXPECT_EQ(exit_loss_scale("linear", 0.2, 0, 1), 1);
  EXPECT_EQ(exit_loss_scale("cosine", 0.2, 0, 1), 1);
  EXPECT_THROW(exit_loss_scale("step", 0.2, 100, 1), Error);
}

}  // namespace
}  // namespace offramp
