// From a configuration to what the rooms below want.
#include "trainer/job.h"

#include <gtest/gtest.h>

#include "tensor/check.h"

namespace offramp {
namespace {

Config with_two_exits() {
  Config config;
  config.model.num_hidden_layers = 8;
  config.training.steps = 100;
  config.exits = {{.layer = 2, .loss_weight = 0.25}, {.layer = 5, .loss_weight = 0.5}};
  return config;
}

TEST(ExitWeight, OfTheExitTimesTheScale) {
  Config config = with_two_exits();
  EXPECT_EQ(exit_weight(config, 1, 1), 0.5);
  config.exit_loss = {.schedule = "linear", .warmup_steps = 10};
  EXPECT_DOUBLE_EQ(exit_weight(config, 1, 5), 0.25);
  EXPECT_EQ(exit_weight(config, 2, 5), 1);
}

TEST(ExitWeight, LayerSkipSetsAllAndCountsStepsFromZero) {
  Config config = with_two_exits();
  config.layerskip = {.enabled = true, .curriculum = "rotational", .rotation = 4};
  EXPECT_DOUBLE_EQ(exit_weight(config, 0, 1), 0);  // see tests/optim/layerskip_test.cpp
  EXPECT_DOUBLE_EQ(exit_weight(config, 1, 1), 2 / 13.2);
  EXPECT_DOUBLE_EQ(exit_weight(config, 2, 1), 11.2 / 13.2);
  EXPECT_DOUBLE_EQ(exit_weight(config, 0, 2), 0.2 / 11.4);
}

TEST(Degrees, FillTheWorld) {
  Config config;
  config.parallel = {.tensor_parallel_size = 2, .pipeline_parallel_size = 3};
  const Degrees degrees = degrees_of(config, 12);
  EXPECT_EQ(degrees.tensor, 2);
  EXPECT_EQ(degrees.pipeline, 3);
  EXPECT_EQ(degrees.data, 2);
  EXPECT_THROW(degrees_of(config, 10), Error);
}

}  // namespace
}  // namespace offramp
