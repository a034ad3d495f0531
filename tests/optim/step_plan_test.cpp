// Plans of a step: what each trains, when, how much it weighs, and that a space is drawn from evenly.
#include "optim/step_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace offramp {
namespace {

constexpr std::int64_t kSteps = 100;

ModelConfig model() {
  return {.num_hidden_layers = 8, .hidden_size = 32, .intermediate_size = 64, .num_attention_heads = 8, .num_key_value_heads = 4};
}

Space default_space() {
  return {.num_hidden_layers = {4, 6, 8},
          .hidden_size = {32},
          .intermediate_size = {16, 32, 48, 64},
          .num_key_value_heads = {2, 4},
          .queries_per_group = {2}};
}

SupernetConfig supernet_of(PlanKind plan) {
  return {.enabled = true, .plan = plan, .space = default_space(), .start = 40, .ramp = 10, .sort_step = 41};
}

StepPasses passes_of(const SupernetConfig& supernet, std::int64_t t, std::uint64_t seed = 7) {
  const ModelConfig whole = model();
  return step_passes(supernet, {.model = whole, .steps = kSteps, .seed = seed}, t);
}

// "sort take | whole | 0.5 of the whole, plain {...}": weights that are 1, labels and regularisation are left out.
std::string text(const StepPasses& step) {
  std::string all = fmt::format("{}{}", step.sorts ? "sort " : "", step.takes_teacher ? "take " : "");
  constexpr std::array kTeaching{"", " of the whole", " of the frozen", " teacher"};
  for (const Pass& pass : step.passes) {
    const std::string weight = pass.weight == 1 ? "" : fmt::format(" {:.3g}", pass.weight);
    const std::string sizes = pass.subnet == Subnet{} ? "whole" : to_text(pass.subnet);
    all += fmt::format("|{}{}{} {}", weight, kTeaching[static_cast<std::size_t>(pass.teaching)], pass.regularise ? "" : " plain", sizes);
  }
  return all;
}

constexpr std::array kPlans{PlanKind::full, PlanKind::sandwich, PlanKind::deps, PlanKind::ofa, PlanKind::matformer, PlanKind::nested_depth};

TEST(StepPlan, TrainsTheWholeAlone) {
  for (const PlanKind plan : {PlanKind::full, PlanKind::nested_depth})
    for (std::int64_t t = 1; t <= kSteps; ++t) EXPECT_EQ(text(passes_of(supernet_of(plan), t)), t == 41 ? "sort | whole" : "| whole");
  for (const PlanKind plan : {PlanKind::deps, PlanKind::ofa})
    for (std::int64_t t = 1; t <= 40; ++t) EXPECT_EQ(text(passes_of(supernet_of(plan), t)), "| whole");
  EXPECT_EQ(text(passes_of({}, 1)), "| whole") << "no supernet";
}

TEST(StepPlan, SandwichesAreTheWholeAndTheSmallestAtLeast) {
  const std::string smallest = R"({"num_hidden_layers":4,"intermediate_size":16,"num_key_value_heads":2})";
  SupernetConfig supernet = supernet_of(PlanKind::sandwich);
  supernet.random_subnets = 0;
  EXPECT_EQ(text(passes_of(supernet, 1)), "| whole| of the whole plain " + smallest);
  supernet.distillation = false;
  EXPECT_EQ(text(passes_of(supernet, 41)), "sort | whole| plain " + smallest);
  supernet.plan = PlanKind::deps;
  EXPECT_EQ(text(passes_of(supernet, 41)), "sort | whole| 0.1 plain " + smallest);
  EXPECT_EQ(text(passes_of(supernet, 45)), "| whole| 0.5 plain " + smallest);
  for (const std::int64_t t : {50, 51, 100}) EXPECT_EQ(text(passes_of(supernet, t)), "| whole| plain " + smallest);
  supernet.space = {.num_hidden_layers = {4, 6, 8}};
  EXPECT_EQ(text(passes_of(supernet, 60)), "| whole") << "exits alone";
}

// Pinned: a run that another version resumes draws what it would have drawn.
TEST(StepPlan, DrawsAreTheSameForEver) {
  EXPECT_EQ(text(passes_of(supernet_of(PlanKind::sandwich), 3)),
            R"(| whole| of the whole plain {"num_hidden_layers":6,"intermediate_size":48,"num_key_value_heads":2})"
            R"(| of the whole plain {"num_hidden_layers":4,"num_key_value_heads":2})"
            R"(| of the whole plain {"num_hidden_layers":4,"intermediate_size":16,"num_key_value_heads":2})");
  EXPECT_EQ(text(passes_of(supernet_of(PlanKind::deps), 43)),
            R"(| whole| 0.3 of the whole plain {"intermediate_size":48,"num_key_value_heads":2})"
            R"(| 0.3 of the whole plain {"num_hidden_layers":6,"num_key_value_heads":2})"
            R"(| 0.3 of the whole plain {"num_hidden_layers":4,"intermediate_size":16,"num_key_value_heads":2})");
  EXPECT_EQ(text(passes_of(supernet_of(PlanKind::ofa), 99)),
            R"(| 0 teacher plain whole| of the frozen plain whole| of the frozen plain {"num_hidden_layers":6,"intermediate_size":48})"
            R"(| of the frozen plain {"num_hidden_layers":6,"intermediate_size":16})");
  EXPECT_EQ(text(passes_of(supernet_of(PlanKind::matformer), 5)), "| whole");
  EXPECT_EQ(text(passes_of(supernet_of(PlanKind::matformer), 8)), R"(| {"intermediate_size":16})");
}

TEST(StepPlan, IsAFunctionOfStepAndSeed) {
  for (const PlanKind plan : kPlans) {
    std::vector<std::string> once, again, others;
    for (std::int64_t t = 1; t <= kSteps; ++t) once.push_back(text(passes_of(supernet_of(plan), t)));
    for (std::int64_t t = kSteps; t >= 1; --t) again.insert(again.begin(), text(passes_of(supernet_of(plan), t)));
    for (std::int64_t t = 1; t <= kSteps; ++t) others.push_back(text(passes_of(supernet_of(plan), t, 8)));
    EXPECT_EQ(once, again);
    EXPECT_EQ(once == others, plan == PlanKind::full || plan == PlanKind::nested_depth) << static_cast<int>(plan);
  }
}

// Layers times a layer's products: more work is never behind less at one depth, and no deeper pass is behind a shallower one.
std::pair<std::int64_t, std::int64_t> size_of(const Pass& pass) {
  const ModelConfig m = narrowed(model(), pass.subnet);
  const std::int64_t heads = 2 * (m.num_attention_heads + m.num_key_value_heads) * m.head_size();
  return {m.num_hidden_layers, m.hidden_size * (heads + 3 * m.intermediate_size)};
}

TEST(StepPlan, PassesOfAStepAreDistinctTheBiggestFirst) {
  for (const PlanKind plan : kPlans)
    for (const bool all_axes : {false, true})
      for (std::int64_t t = 1; t <= kSteps; ++t) {
        SupernetConfig supernet = supernet_of(plan);
        supernet.random_subnets = 5;
        if (all_axes) supernet.space.hidden_size = {16, 24, 32}, supernet.space.queries_per_group = {1, 2};
        std::vector<Pass> passes = passes_of(supernet, t).passes;
        if (passes.front() == kTeacherPass) passes.erase(passes.begin());
        std::set<Subnet> subnets;
        for (const Pass& pass : passes) {
          EXPECT_TRUE(subnets.insert(pass.subnet).second);
          EXPECT_EQ(misfit(pass.subnet, supernet.space, model()), "");
          EXPECT_EQ(is_whole_width(pass.subnet, model()), pass.subnet == Subnet{}) << "an exit of the whole as a pass of its own";
        }
        for (std::size_t i = 1; i < passes.size(); ++i) EXPECT_GE(size_of(passes[i - 1]), size_of(passes[i]));
      }
}

TEST(StepPlan, SubnetsOfASandwichLearnWithoutRegularisation) {
  for (const PlanKind plan : {PlanKind::sandwich, PlanKind::deps})
    for (const std::int64_t t : {41, 43, 60, 100}) {
      const std::vector<Pass> passes = passes_of(supernet_of(plan), t).passes;
      ASSERT_EQ(passes.size(), 4u);
      EXPECT_EQ(passes[0], Pass{});
      EXPECT_TRUE(std::ranges::any_of(passes, [](const Pass& pass) { return pass.subnet == smallest(default_space()); }));
      const double weight = plan == PlanKind::deps ? std::min(1.0, static_cast<double>(t - 40) / 10) : 1;
      for (std::size_t i = 1; i < passes.size(); ++i)
        EXPECT_TRUE(passes[i].weight == weight && passes[i].teaching == Teaching::whole && !passes[i].regularise);
    }
}

// Twelve shapes of width and depth, of which three are exits of the whole, and one is the smallest.
TEST(StepPlan, ASmallSpaceIsTrainedWholeAndNothingTwice) {
  SupernetConfig supernet = supernet_of(PlanKind::sandwich);
  supernet.space.num_key_value_heads = {4};
  for (const std::int64_t random : {7, 8, 9, 64}) {
    supernet.random_subnets = random;
    for (std::int64_t t = 1; t <= 20; ++t)
      EXPECT_EQ(passes_of(supernet, t).passes.size(), static_cast<std::size_t>(2 + std::min<std::int64_t>(random, 8)));
  }
  supernet.plan = PlanKind::ofa, supernet.distillation = false;  // the whole is one of nine and one
  EXPECT_EQ(passes_of(supernet, 100).passes.size(), 10u);
  EXPECT_EQ(passes_of(supernet, 100).passes.front().subnet, Subnet{});
}

// The last ones left of many are found, too.
TEST(StepPlan, AStepOfEverySubnetHasThemAll) {
  SupernetConfig supernet = supernet_of(PlanKind::sandwich);
  supernet.space = {.intermediate_size = std::vector<std::int64_t>(64)};
  std::iota(supernet.space.intermediate_size.begin(), supernet.space.intermediate_size.end(), 1);
  supernet.random_subnets = 64;
  for (std::int64_t t = 1; t <= 20; ++t) EXPECT_EQ(passes_of(supernet, t).passes.size(), 64u);
}

// How often each subnet is drawn first, beside what a fair die of so many sides does in as many throws.
void expect_even(const std::map<std::string, int>& counts, std::size_t sides, int throws) {
  EXPECT_EQ(counts.size(), sides);
  const double mean = static_cast<double>(throws) / static_cast<double>(sides);
  for (const auto& [subnet, count] : counts) EXPECT_LT(std::abs(count - mean), 5 * std::sqrt(mean)) << subnet;  // five deviations
}

TEST(StepPlan, EverySubnetIsAsLikely) {
  constexpr int kThrows = 4000;
  SupernetConfig supernet = supernet_of(PlanKind::sandwich);
  supernet.random_subnets = 1;
  std::map<std::string, int> drawn;
  for (int t = 1; t <= kThrows; ++t)
    for (const Pass& pass : passes_of(supernet, t).passes)
      if (pass.subnet != Subnet{} && pass.subnet != smallest(default_space())) ++drawn[to_text(pass.subnet)];
  expect_even(drawn, 24 - 3 - 1, kThrows);
  supernet.plan = PlanKind::matformer;
  drawn.clear();
  for (int t = 1; t <= kThrows; ++t) ++drawn[text(passes_of(supernet, t + 100))];
  expect_even(drawn, 4, kThrows);
}

TEST(StepPlan, MatformerTrainsOneWidthOfTheMlpsWithLabels) {
  for (std::int64_t t = 1; t <= kSteps; ++t) {
    const StepPasses step = passes_of(supernet_of(PlanKind::matformer), t);
    ASSERT_EQ(step.passes.size(), 1u);
    EXPECT_EQ(step.passes[0], (Pass{.subnet = {.intermediate_size = step.passes[0].subnet.intermediate_size}}));
  }
}

// ---- progressive shrinking

TEST(StepPlan, ShrinkingOpensOneAxisAfterTheOther) {
  const SupernetConfig supernet = supernet_of(PlanKind::ofa);  // 60 steps: depth to 60, MLPs to 80, groups to 100
  EXPECT_EQ(text(passes_of(supernet, 41)), "sort take | 0 teacher plain whole| of the frozen plain whole");
  for (std::int64_t t = 42; t <= 60; ++t) EXPECT_EQ(text(passes_of(supernet, t)), "| 0 teacher plain whole| of the frozen plain whole");
  bool narrow_heads = false, wholes = false;
  for (std::int64_t t = 61; t <= 100; ++t) {
    const StepPasses step = passes_of(supernet, t);
    ASSERT_EQ(step.passes.size(), 4u);
    EXPECT_FALSE(step.sorts || step.takes_teacher);
    EXPECT_EQ(step.passes.front(), kTeacherPass);
    for (const Pass& pass : std::span(step.passes).subspan(1)) {
      EXPECT_TRUE(pass.weight == 1 && pass.teaching == Teaching::frozen && !pass.regularise);
      EXPECT_TRUE(t > 80 || pass.subnet.num_key_value_heads == 0);
      narrow_heads |= pass.subnet.num_key_value_heads == 2;
      wholes |= pass.subnet == Subnet{};
    }
  }
  EXPECT_TRUE(narrow_heads && wholes);
}

TEST(StepPlan, ShrinkingWithoutElasticDepthBeginsWithWidth) {
  SupernetConfig supernet = supernet_of(PlanKind::ofa);
  supernet.space = {.intermediate_size = {32, 64}};
  std::set<std::string> texts;
  for (std::int64_t t = 42; t <= 100; ++t) texts.insert(text(passes_of(supernet, t)));
  EXPECT_EQ(texts,
            std::set<std::string>{R"(| 0 teacher plain whole| of the frozen plain whole| of the frozen plain {"intermediate_size":32})"});
}

TEST(StepPlan, ShrinkingTowardsLabelsNeedsNoTeacher) {
  SupernetConfig supernet = supernet_of(PlanKind::ofa);
  supernet.distillation = false;
  for (std::int64_t t = 41; t <= 100; ++t) {
    EXPECT_FALSE(passes_of(supernet, t).takes_teacher);
    for (const Pass& pass : passes_of(supernet, t).passes) EXPECT_EQ(pass.teaching, Teaching::labels);
  }
}

// ---- the ramp

double ramp(std::int64_t t, const std::function<double(std::int64_t)>& rate, std::int64_t length = 10, std::int64_t steps = kSteps) {
  const ModelConfig whole = model();
  SupernetConfig supernet;
  supernet.ramp = length;
  return ramp_weight(supernet, {.model = whole, .steps = steps, .seed = 1, .rate = rate}, t, 41);
}

TEST(Ramp, RisesInEqualStepsToOne) {
  for (std::int64_t t = 41; t <= 50; ++t) EXPECT_EQ(ramp(t, {}), static_cast<double>(t - 40) / 10);
  for (const std::int64_t t : {50, 51, 100}) EXPECT_EQ(ramp(t, {}), 1);
  EXPECT_EQ(ramp(40, {}), 0);
  EXPECT_EQ(ramp(41, {}, 0), 1);
  EXPECT_EQ(ramp(41, {}, 1), 1);
}

// rate(t) times the weight is the effective rate: a straight line from 0 to what the rate is where the ramp ends.
TEST(Ramp, OfSgdIsOneOfEffectiveRates) {
  const auto rate = [](std::int64_t t) { return 0.5 * (1 + std::cos(3.0 * static_cast<double>(t) / kSteps)); };
  for (std::int64_t t = 41; t < 50; ++t) EXPECT_NEAR(ramp(t, rate) * rate(t), rate(51) * static_cast<double>(t - 40) / 10, 1e-15);
  for (const std::int64_t t : {50, 51, 100}) EXPECT_EQ(ramp(t, rate), 1);
}

TEST(Ramp, BeyondTheLastStepIsFinite) {
  const auto to_zero = [](std::int64_t t) { return t == 50 ? 0.0 : 1.0; };
  for (std::int64_t t = 41; t <= 50; ++t) EXPECT_TRUE(std::isfinite(ramp(t, to_zero, 20, 50))) << t;
}

}  // namespace
}  // namespace offramp
