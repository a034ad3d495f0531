// What steps may be: nothing that a plan gives is missing, and not more than was counted.
#include "optim/possible_steps.h"

#include <gtest/gtest.h>

#include <set>

namespace offramp {
namespace {

ModelConfig model() {
  return {.num_hidden_layers = 8, .hidden_size = 32, .intermediate_size = 64, .num_attention_heads = 8, .num_key_value_heads = 4};
}

std::vector<Space> spaces() {
  return {{.num_hidden_layers = {4, 6, 8}, .hidden_size = {32}, .intermediate_size = {16, 32, 48, 64}, .num_key_value_heads = {2, 4}},
          {.num_hidden_layers = {2, 8}, .hidden_size = {16, 32}, .intermediate_size = {64}, .queries_per_group = {1, 2}},
          {.num_hidden_layers = {4, 6, 8}},
          {.intermediate_size = {32, 64}}};
}

// Of passes what a layout depends on: depth, whether it is the whole, and who teaches it.
using Shape = std::vector<std::tuple<std::int64_t, bool, Teaching>>;
Shape shape_of(const std::vector<Pass>& passes) {
  Shape shape;
  for (const Pass& pass : passes) shape.emplace_back(pass.subnet.num_hidden_layers, pass.subnet == Subnet{}, pass.teaching);
  return shape;
}

TEST(PossibleSteps, HaveAllThatAPlanGives) {
  const ModelConfig whole = model();
  for (const PlanKind plan :
       {PlanKind::full, PlanKind::sandwich, PlanKind::deps, PlanKind::ofa, PlanKind::matformer, PlanKind::nested_depth})
    for (const Space& space : spaces())
      for (const bool distills : {false, true})
        for (const std::int64_t random : {0, 1, 3}) {
          if (plan == PlanKind::matformer && space.intermediate_size.size() < 2) continue;  // is refused
          const SupernetConfig supernet{
              .enabled = true, .plan = plan, .space = space, .random_subnets = random, .start = 40, .distillation = distills};
          const PossibleSteps possible = possible_steps(supernet, whole);
          std::set<Shape> shapes;
          std::set<std::pair<Subnet, Teaching>> kinds;
          for (const auto& passes : possible.shapes) shapes.insert(shape_of(passes));
          for (const Pass& pass : possible.kinds) kinds.insert({pass.subnet, pass.teaching});
          EXPECT_LE(static_cast<double>(possible.kinds.size()), kinds_of(supernet));
          EXPECT_LE(static_cast<double>(possible.shapes.size()), shapes_of(supernet));
          EXPECT_EQ(shapes.size(), possible.shapes.size() - (plan == PlanKind::matformer ? space.intermediate_size.size() - 2 : 0));
          for (std::int64_t t = 1; t <= 1000; ++t) {
            const std::vector<Pass> passes = step_passes(supernet, {.model = whole, .steps = 1000, .seed = 3}, t).passes;
            ASSERT_TRUE(shapes.contains(shape_of(passes))) << static_cast<int>(plan) << " step " << t;
            for (const Pass& pass : passes) ASSERT_TRUE(kinds.contains({pass.subnet, pass.teaching})) << to_text(pass.subnet);
          }
        }
}

TEST(PossibleSteps, AreCountedBeforeTheyAreMade) {
  SupernetConfig supernet{.enabled = true, .plan = PlanKind::deps, .space = spaces().front()};
  EXPECT_EQ(kinds_of(supernet), 25);   // the whole, and of 24 subnets those of less than its width
  EXPECT_EQ(shapes_of(supernet), 20);  // up to three of three depths
  supernet.random_subnets = 64;
  EXPECT_GT(shapes_of(supernet), kMostShapes);
}

}  // namespace
}  // namespace offramp
