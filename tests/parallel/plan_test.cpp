// What is planned against what runs: bytes sent, memory taken; and given times against the schedule's closed form.
#include "parallel/plan.h"

#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

OptimizerConfig adamw() {
  OptimizerConfig optimizer;
  optimizer.lr = 1e-3;
  return optimizer;
}

PlannedJob planned(SmallJob job) {
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  return {job.options, job.degrees(), adamw()};
}

// Bytes by the kind of group that this rank's step really sends, and the machine's own plan of its memory.
std::pair<std::map<std::string, double>, MemoryPlan> run_step(const PlannedJob& job, const SmallJob& small, const Group& world) {
  const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), job.degrees));
  Machine machine(job.options, Mesh(world, job.degrees), Backing::host, plan.peak, [world] { world.progress(); });
  machine.flat().initialize(machine.context(), 1234);
  fill_inputs(machine, small);
  Profile profile;
  machine.context().profile = &profile;
  PhaseTimes times;
  machine.train("a step", times);
  update(machine, job.optimizer, 1);
  return {profile.sent_bytes, machine.memory()};
}

void expect_planned(const SmallJob& small) {
  const PlannedJob job = planned(small);
  const StepPlan plan = plan_step(job, Cluster{});
  run_in_process(job.degrees.world(), [&](Group world) {
    auto [sent, memory] = run_step(job, small, world);
    const RankPlan& rank = plan.of(coordinates(world.rank(), job.degrees));
    const std::string what = fmt::format("{}, rank {}", small.text(), world.rank());
    EXPECT_EQ(rank.sent.tensor, sent["tensor"]) << what;
    EXPECT_EQ(rank.sent.pipeline, sent["pipeline"]) << what;
    EXPECT_EQ(rank.sent.data, sent["data"]) << what;
    EXPECT_EQ(rank.memory.peak, memory.peak) << what;
  });
}

TEST(Plan, BytesAndMemoryAreThoseOfTheStep) {
  for (const bool tied : {false, true})
    for (const Degrees& degrees :
         {Degrees{1, 1, 1}, Degrees{2, 2, 1}, Degrees{1, 3, 1}, Degrees{2, 2, 2}, Degrees{4, 1, 2}, Degrees{1, 2, 4}})
      for (const bool split : {false, true}) {
        SmallJob job = small_job(exits_of_every_kind(), tied, tied ? "gpt2" : "llama");
        job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
        job.options.sequence_parallel = split && job.tensor > 1, job.options.shard_state = split && job.data > 1;
        expect_planned(job);
      }
}

TEST(Plan, EverySchedulesBytesAndMemoryAreThoseOfTheStep) {
  for (const char* schedule : {"gpipe", "1f1b", "zero_bubble", "auto"})
    for (const char* recompute : {"none", "selective", "full"}) {
      SmallJob job = small_job(exits_of_every_kind(), true);
      job.tensor = job.pipeline = 2, job.options.sequence_parallel = true;
      job.options.schedule = schedule, job.options.recompute = recompute;
      expect_planned(job);
    }
}

TEST(Plan, BytesAndMemoryOfHeadsSplitOverThePipelineAreThoseOfTheStep) {
  for (const bool tied : {false, true})
    for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{1, 4, 1}, Degrees{1, 3, 2}, Degrees{2, 2, 2}})
      for (const bool rows : {false, true}) {
        SmallJob job = small_job(exits_of_every_kind(), tied);
        job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
        job.options.sequence_parallel = rows && job.tensor > 1, job.options.shard_state = rows && job.data > 1;
        job.options.split_heads = true, job.options.schedule = rows ? "zero_bubble" : "1f1b";
        expect_planned(job);
      }
}

TEST(Plan, BytesAndMemoryOfSeveralStagesARankAreThoseOfTheStep) {
  for (const bool heads : {false, true})
    for (const char* schedule : {"gpipe", "interleaved"})
      for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{2, 2, 2}}) {
        SmallJob job = small_job(exits_of_every_kind(), true);
        job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
        job.options.sequence_parallel = job.tensor > 1, job.options.shard_state = job.data > 1;
        job.options.virtual_stages = 2, job.options.split_heads = heads, job.options.schedule = schedule;
        expect_planned(job);
      }
}

TEST(Plan, UnevenStagesGiveTheNumbersOfEvenOnesInThePlannedMemory) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  const StepResult alone = run_small_job(job);
  job.pipeline = 3;
  for (const std::vector<int>& layers : {std::vector{1, 1, 6}, {4, 3, 1}}) {
    job.options.layers_per_stage = layers;
    expect_planned(job);
    expect_close(run_small_job(job), alone, 1e-5, fmt::format("{} layers a stage", fmt::join(layers, ", ")));
  }
}

TEST(Plan, WhatIsComputedAgainIsNoWorkOfTheModel) {
  SmallJob job = small_job({}, false);
  const double kept = plan_step(planned(job), Cluster{}).model_flops;
  for (const char* recompute : {"selective", "full"}) {
    job.options.recompute = recompute;
    const StepPlan again = plan_step(planned(job), Cluster{});
    EXPECT_EQ(again.model_flops, kept) << recompute;
    EXPECT_GT(again.ranks[0].flops, 1.01 * kept) << recompute;
  }
}

TEST(Plan, GivenTimesGiveTheClosedForm) {
  SmallJob small = small_job({}, false);
  small.pipeline = 4, small.global_batch = 16;
  Cluster cluster;
  cluster.times = GivenTimes{.layer = {1, 1, 1}};
  const PlannedJob job = planned(small);
  const StepPlan plan = plan_step(job, cluster);
  EXPECT_EQ(plan.step_s, 2 * 3 * (16 + 3));  // two layers a stage; 1F1B: (M + P - 1) of them
  EXPECT_DOUBLE_EQ(plan.bubble, 3.0 / 19);
  cluster.times->message = 1;
  EXPECT_GT(plan_step(job, cluster).step_s, plan.step_s);
  EXPECT_LE(plan_step(job, cluster).lower_bound_s, plan_step(job, cluster).step_s);
}

TEST(Plan, WorkIsThatOfTheMachines) {
  SmallJob small = small_job(exits_of_every_kind(), false);
  small.pipeline = 2;
  const PlannedJob job = planned(small);
  const StepPlan plan = plan_step(job, Cluster{});
  double flops = 0;
  for (int rank = 0; rank < 2; ++rank)
    flops += Machine(job.options, Mesh::planned(rank, job.degrees), Backing::none, kUnlimited).flops() * job.options.microbatches;
  EXPECT_DOUBLE_EQ(plan.model_flops, flops);
  EXPECT_GT(plan.ranks[0].flops, 0);
  EXPECT_EQ(plan.ranks[0].in_flight, 2);
}

}  // namespace
}  // namespace offramp::testing
