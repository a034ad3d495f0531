// Planned steps of several passes, against those that run and against their passes alone.
#include <map>

#include "tests/parallel/planned_step.h"
#include "tests/parallel/supernet_job.h"

namespace offramp::testing {
namespace {

// Widths of every axis, and depths that end on any stage.
std::vector<Pass> passes_of(Teaching teaching) {
  std::vector<Pass> passes{Pass{}};
  if (teaching == Teaching::frozen) passes = {kTeacherPass, subnet({}, 1, teaching)};
  for (const Subnet& sizes : {Subnet{.intermediate_size = 16, .num_key_value_heads = 2}, Subnet{.num_hidden_layers = 6, .hidden_size = 16},
                              Subnet{.num_hidden_layers = 2, .intermediate_size = 32, .queries_per_group = 1}})
    passes.push_back(subnet(sizes, 1, teaching));
  return passes;
}

// As most steps are drawn: whole depths, and the smallest.
std::vector<Pass> sandwich(Teaching teaching) {
  std::vector<Pass> passes{Pass{}};
  for (const Subnet& subnet : {Subnet{.intermediate_size = 32}, Subnet{.num_key_value_heads = 2},
                               Subnet{.num_hidden_layers = 4, .intermediate_size = 16, .num_key_value_heads = 2}})
    passes.push_back({.subnet = subnet, .weight = 1, .teaching = teaching, .regularise = false});
  return passes;
}

TEST(PlanPasses, BytesMemoryAndWorkOfSeveralPassesAreThoseOfTheStep) {
  const auto expect = [](Teaching teaching, const char* schedule, const char* in_flight) {
    for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{1, 4, 1}, Degrees{2, 2, 2}}) {
      SmallJob job = supernet_job(passes_of(teaching), true);
      job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
      job.options.sequence_parallel = job.tensor > 1, job.options.schedule = schedule, job.options.in_flight = in_flight;
      expect_planned(job);
    }
  };
  for (const Teaching teaching : {Teaching::labels, Teaching::whole, Teaching::frozen}) {
    for (const char* schedule : {"1f1b", "gpipe", "zero_bubble"}) expect(teaching, schedule, "1f1b");
    expect(teaching, "1f1b", "1f1b+1");
  }
}

double machines_flops(const SmallJob& job) {
  double flops = 0;
  for (int rank = 0; rank < job.pipeline; ++rank) {
    Machine machine(planned(job).options, Mesh::planned(rank, job.degrees()), Backing::none, kUnlimited);
    machine.set_passes(job.passes);
    flops += machine.step_flops();
  }
  return flops;
}

TEST(PlanPasses, WorkOfSeveralPassesIsThatOfTheMachines) {
  for (const int pipeline : {1, 2}) {
    SmallJob job = supernet_job(passes_of(Teaching::frozen));
    job.pipeline = pipeline;
    EXPECT_DOUBLE_EQ(plan_step(planned(job), Cluster{}).model_flops, machines_flops(job));
    job.passes = passes_of(Teaching::whole);
    EXPECT_DOUBLE_EQ(plan_step(planned(job), Cluster{}).model_flops, machines_flops(job));
    for (const Pass& pass : passes_of(Teaching::labels)) {
      SmallJob one = job;
      one.passes = {pass};
      EXPECT_DOUBLE_EQ(plan_step(planned(one), Cluster{}).model_flops, machines_flops(one)) << to_text(pass.subnet);
    }
  }
}

double computing(const StepPlan& plan) {
  double seconds = 0;
  for (const Span& span : plan.timeline.spans) seconds += span.action.op == Op::ReduceTied ? 0 : span.end - span.begin;
  return seconds;
}

// On one rank nothing waits: its time is that of the passes, each as if it were alone but for the teacher's logits.
TEST(PlanPasses, ASandwichOnOneRankTakesTheSumOfItsActions) {
  for (const Teaching teaching : {Teaching::labels, Teaching::whole}) {
    const std::vector<Pass> passes = passes_of(teaching);
    const StepPlan plan = plan_time(planned(supernet_job(passes)), Cluster{});
    double actions = 0, alone = 0;
    for (const Span& span : plan.timeline.spans) actions += span.end - span.begin;
    EXPECT_NEAR(plan.timeline.seconds, actions, 1e-12 * actions);
    if (teaching == Teaching::whole) continue;  // alone they have no teacher
    for (const Pass& pass : passes) alone += computing(plan_time(planned(supernet_job({pass})), Cluster{}));
    EXPECT_NEAR(computing(plan), alone, 1e-12 * alone);
  }
}

TEST(PlanPasses, EveryPassHasTimesOfItsOwn) {
  const SmallJob job = supernet_job(passes_of(Teaching::whole));
  const StepPlan plan = plan_time(planned(job), Cluster{});
  std::map<std::pair<Op, int>, double> seconds;
  for (const Span& span : plan.timeline.spans)
    seconds[{span.action.op, plan.layout.pass_of(span.action.microbatch)}] += span.end - span.begin;
  for (const Op op : {Op::Forward, Op::Backward, Op::Exit})
    for (int p = 1; p < 4; ++p) EXPECT_LT((seconds[{op, p}]), (seconds[{op, 0}])) << static_cast<int>(op) << " of pass " << p;
  EXPECT_LT((seconds[{Op::Forward, 3}]), (seconds[{Op::Forward, 2}]));  // two layers of eight, and six
}

// It goes forward as the whole does, and no way back.
TEST(PlanPasses, AFrozenTeacherTakesAForward) {
  const StepPlan plan = plan_time(planned(supernet_job(passes_of(Teaching::frozen))), Cluster{});
  std::map<std::pair<Op, int>, double> seconds;
  for (const Span& span : plan.timeline.spans)
    seconds[{span.action.op, plan.layout.pass_of(span.action.microbatch)}] += span.end - span.begin;
  EXPECT_GE((seconds[{Op::Forward, 0}]), (seconds[{Op::Forward, 1}]));        // with the final norm, for those that it teaches
  EXPECT_LT((seconds[{Op::Forward, 0}]), 1.1 * (seconds[{Op::Forward, 1}]));  // of the whole
  for (const Op op : {Op::Backward, Op::Exit}) EXPECT_EQ((seconds[{op, 0}]), 0) << static_cast<int>(op);
}

// Passes that take equally long are as many microbatches of one step: it fills the pipeline once, and drains it once.
TEST(PlanPasses, PassesFillAndDrainThePipelineOnce) {
  Cluster cluster;
  cluster.times = GivenTimes{.layer = {1, 1, 1}};
  SmallJob job = supernet_job(std::vector<Pass>(3, {.subnet = {.intermediate_size = 16}}));
  job.pipeline = 2;
  const StepPlan plan = plan_time(planned(job), cluster);
  const double share = 4 * measure_passes(job.options, job.degrees(), job.passes).front().layer_share;  // of a stage's four layers
  EXPECT_LT(share, 4);
  EXPECT_NEAR(plan.step_s, 3 * share * (3 * 4 + 2 - 1), 1e-9);
}

// Nothing but FLOPs takes time.
Cluster of_flops() {
  constexpr double kAtOnce = 1e30;
  return {.fp32_flops = 1e9,
          .memory_bandwidth = kAtOnce,
          .launch = 0,
          .inside = {kAtOnce, 0},
          .between = {kAtOnce, 0},
          .efficiency = 1,
          .half_size = 0,
          .attention_efficiency = 1};
}

// How much longer a step takes for every further microbatch than the busiest rank works on one. Fill and drain, which all steps have
// once, are not in it.
double waits_of(SmallJob job) {
  const auto plan_of = [&](int microbatches) {
    job.global_batch = microbatches * static_cast<int>(job.options.micro_batch_size);
    return plan_time(planned(job), of_flops());
  };
  const StepPlan plan = plan_of(16), half = plan_of(8);
  const double work = std::ranges::max(plan.timeline.busy) / 16;
  return (plan.timeline.seconds - half.timeline.seconds) / (8 * work) - 1;
}

SmallJob piped(std::vector<Pass> passes, int pipeline, const char* in_flight = "1f1b") {
  SmallJob job = supernet_job(std::move(passes));
  job.pipeline = pipeline, job.options.in_flight = in_flight;
  return job;
}

// Passes that end early turn round while others are on their way. In the order of microbatches they took one's place: 10 to 17 % on two
// stages, and on four 43 % and more where half of the passes do.
TEST(PlanPasses, AFurtherMicrobatchTakesWhatTheBusiestRankWorks) {
  for (const Teaching teaching : {Teaching::labels, Teaching::whole})
    for (const auto& [passes, of_four] : {std::pair(passes_of(teaching), 0.055), {sandwich(teaching), 0.02}}) {
      EXPECT_LT(waits_of(piped(passes, 2)), 0.005);
      EXPECT_LT(waits_of(piped(passes, 4)), of_four);
    }
}

// It keeps nothing, so it takes no student's place. With one a further microbatch took 24 % longer on two stages, and 29 % on four.
TEST(PlanPasses, AFrozenTeacherHoldsNobodyUp) {
  EXPECT_LT(waits_of(piped(passes_of(Teaching::frozen), 2)), 0.005);
  EXPECT_LT(waits_of(piped(passes_of(Teaching::frozen), 4)), 0.055);
}

void expect_in_flight(const StepPlan& plan, int more) {
  const int stages = static_cast<int>(plan.ranks.size());
  for (int s = 0; s < stages; ++s)
    EXPECT_LE(plan.ranks[static_cast<std::size_t>(s)].in_flight, stages - s + (s + 1 < stages ? more : 0)) << "stage " << s;
}

TEST(PlanPasses, StagesKeepNoMorePassesThan1F1B) {
  for (const auto& passes : {passes_of(Teaching::whole), sandwich(Teaching::whole)})
    for (const int pipeline : {2, 4, 8}) {
      expect_in_flight(plan_time(planned(piped(passes, pipeline)), of_flops()), 0);
      expect_in_flight(plan_time(planned(piped(passes, pipeline, "1f1b+1")), of_flops()), 1);
    }
}

// Narrow passes as deep as the whole, two for each.
TEST(PlanPasses, OnePassMoreInFlightMakesUpForNarrowOnes) {
  std::vector<Pass> passes{Pass{}};
  for (const std::int64_t mlp : {48, 16}) passes.push_back({.subnet = {.hidden_size = 16, .intermediate_size = mlp}, .regularise = false});
  EXPECT_GT(waits_of(piped(passes, 2)), 0.1);
  EXPECT_LT(waits_of(piped(passes, 2, "1f1b+1")), 0.005);
  EXPECT_LT(waits_of(piped(passes, 4, "1f1b+1")), 0.5 * waits_of(piped(passes, 4)));
}

TEST(PlanPasses, NoStepIsLongerWithMoreInFlight) {
  for (const auto& passes : {passes_of(Teaching::whole), sandwich(Teaching::whole)})
    for (const int pipeline : {2, 4}) {
      const double least = plan_time(planned(piped(passes, pipeline)), of_flops()).timeline.seconds;
      EXPECT_LE(plan_time(planned(piped(passes, pipeline, "1f1b+1")), of_flops()).timeline.seconds, least * (1 + 1e-9)) << pipeline;
    }
}

TEST(PlanPasses, ASandwichTakesNoLongerThanItsPassesOneAfterTheOther) {
  for (const char* schedule : {"1f1b", "gpipe", "zero_bubble"})
    for (const int pipeline : {2, 4}) {
      SmallJob job = supernet_job(passes_of(Teaching::labels));
      job.pipeline = pipeline, job.options.schedule = schedule;
      const StepPlan plan = plan_time(planned(job), Cluster{});
      double alone = 0;
      for (const Pass& pass : job.passes) {
        SmallJob one = job;
        one.passes = {pass};
        alone += plan_time(planned(one), Cluster{}).timeline.seconds;
      }
      EXPECT_LT(plan.timeline.seconds, alone) << schedule << " " << pipeline;
      EXPECT_LE(plan.lower_bound_s, plan.step_s * (1 + 1e-12)) << schedule << " " << pipeline;
    }
}

}  // namespace
}  // namespace offramp::testing
