#include "optim/costliest_step.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace offramp {
namespace {

ModelConfig model() {
  ModelConfig m;
  m.num_hidden_layers = 8, m.hidden_size = 256, m.intermediate_size = 688, m.num_attention_heads = 8, m.num_key_value_heads = 4;
  return m;
}

SupernetConfig supernet(PlanKind plan) {
  return {
      .enabled = true,
      .plan = plan,
      .space = {.num_hidden_layers = {4, 6, 8}, .hidden_size = {}, .intermediate_size = {172, 344, 688}, .num_key_value_heads = {2, 4}}};
}

double cost(const Pass& pass) {
  const Subnet all = spelled_out(pass.subnet, model());
  return static_cast<double>(all.num_hidden_layers * (all.intermediate_size + 100 * all.num_key_value_heads));
}

double cost(const std::vector<Pass>& passes) {
  double sum = 0;
  for (const Pass& pass : passes) sum += cost(pass);
  return sum;
}

using OfPass = double(const Pass&);

// No step of 4,000 costs more, and with so few subnets one costs as much.
TEST(CostliestStep, IsTheMostThatStepsReach) {
  const ModelConfig m = model();
  for (const PlanKind plan : {PlanKind::sandwich, PlanKind::deps, PlanKind::ofa, PlanKind::matformer})
    for (const std::int64_t random : {1, 2}) {
      SupernetConfig config = supernet(plan);
      config.random_subnets = random;
      const std::vector<Pass> most = costliest_step(config, m, static_cast<OfPass*>(cost));
      double reached = 0;
      for (std::int64_t t = 1; t <= 4000; ++t)
        reached = std::max(reached, cost(step_passes(config, {.model = m, .steps = 4000, .seed = 3}, t).passes));
      EXPECT_EQ(reached, cost(most)) << static_cast<int>(plan) << " " << random;
    }
}

TEST(CostliestStep, OfASandwichHasTheWholeFirstAndTheSmallest) {
  for (const PlanKind plan : {PlanKind::sandwich, PlanKind::deps}) {
    const std::vector<Pass> passes = costliest_step(supernet(plan), model(), static_cast<OfPass*>(cost));
    ASSERT_EQ(passes.size(), 4u);
    EXPECT_EQ(passes.front(), Pass{});
    EXPECT_EQ(passes[1].subnet, (Subnet{.num_key_value_heads = 2}));
    EXPECT_EQ(passes[2].subnet, (Subnet{.intermediate_size = 344}));
    EXPECT_EQ(passes.back().subnet, (Subnet{.num_hidden_layers = 4, .intermediate_size = 172, .num_key_value_heads = 2}));
    EXPECT_EQ(passes.back().teaching, Teaching::whole);
  }
}

TEST(CostliestStep, OfShrinkingHasItsTeacherFirst) {
  SupernetConfig config = supernet(PlanKind::ofa);
  const std::vector<Pass> passes = costliest_step(config, model(), static_cast<OfPass*>(cost));
  ASSERT_EQ(passes.size(), 4u);
  EXPECT_EQ(passes.front(), kTeacherPass);
  EXPECT_EQ(passes[1], (Pass{.teaching = Teaching::frozen, .regularise = false}));
  config.distillation = false;
  EXPECT_EQ(costliest_step(config, model(), static_cast<OfPass*>(cost)).size(), 3u);
}

TEST(CostliestStep, OfPlansOfTheWholeIsTheWhole) {
  for (const PlanKind plan : {PlanKind::full, PlanKind::nested_depth, PlanKind::matformer})
    EXPECT_EQ(costliest_step(supernet(plan), model(), static_cast<OfPass*>(cost)), std::vector{Pass{}});
}

TEST(CostliestStep, ASpaceOfFewSubnetsHasNoMorePasses) {
  SupernetConfig config = supernet(PlanKind::sandwich);
  config.space = {.num_hidden_layers = {}, .hidden_size = {}, .intermediate_size = {172, 688}};
  EXPECT_EQ(costliest_step(config, model(), static_cast<OfPass*>(cost)).size(), 2u);
}

}  // namespace
}  // namespace offramp
