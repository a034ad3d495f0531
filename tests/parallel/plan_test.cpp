// What is planned against what runs: bytes sent, memory taken; and given times against the schedule's closed form.
#include <algorithm>

#include "tests/parallel/planned_step.h"

namespace offramp::testing {
namespace {

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

TEST(Plan, BytesAndMemoryOfAFrozenBackboneAreThoseOfTheStep) {
  for (const bool split : {false, true})
    for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{1, 4, 1}, Degrees{2, 2, 2}, Degrees{1, 2, 4}})
      for (const int last : {1, 3, 5}) {  // exits: the last one ends within a layer where its head is mlp
        SmallJob job = small_job(exits_of_every_kind(), true);
        job.options.exits.resize(static_cast<std::size_t>(last));
        if (last == 3 && !split) job.options.exits[1].target = Target::distribution;  // then all layers run
        job.options.frozen_backbone = true, job.options.schedule = "exits_only", job.options.split_heads = split;
        job.tensor = degrees.tensor, job.pipeline = std::min(degrees.pipeline, job.options.exits.back().layer), job.data = degrees.data;
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

TEST(Plan, FilledGapsBytesAndMemoryAreThoseOfTheStep) {
  for (const Fill fill : {Fill::warmup, Fill::cooldown})
    for (const char* recompute : {"none", "full"}) {
      SmallJob job = small_job(exits_of_every_kind(), true);
      job.pipeline = 4, job.data = 2, job.global_batch = 12;
      job.options.fill_bubbles = fill, job.options.recompute = recompute;
      expect_planned(job);
      const StepPlan plan = plan_step(planned(job), Cluster{});
      EXPECT_EQ(plan.layout.microbatches, 6 + 2);
      EXPECT_LE(plan.lower_bound_s, plan.step_s);
      double flops = 0;
      for (int rank = 0; rank < 4; ++rank)
        flops += Machine(planned(job).options, Mesh::planned(rank, job.degrees()), Backing::none, kUnlimited).step_flops();
      EXPECT_DOUBLE_EQ(plan.model_flops, flops * job.data);
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

double attention_seconds(const PlannedJob& job, const Cluster& cluster) {
  const Counted forward = measure_work(job.options, job.degrees).attention.forward;
  const auto at = std::ranges::find(forward.calls, std::string_view("attention"), &Metered::name);
  return seconds_of(std::span(&*at, 1), {.degrees = job.degrees, .bf16 = false, .head_size = 4}, cluster);
}

TEST(Plan, AttentionThatIsMadeAgainTakesItsTime) {
  PlannedJob job = planned(small_job({}, false));
  for (const bool fused : {true, false}) {
    Cluster cluster;
    cluster.fused_attention = fused;
    job.options.recompute = "none";
    const double kept = plan_time(job, cluster).step_s;
    job.options.recompute = "selective";
    const double again = 8 * job.options.microbatches * attention_seconds(job, cluster);  // in each of eight layers
    EXPECT_NEAR(plan_time(job, cluster).step_s, kept + again, 1e-9 * kept) << fused;
    EXPECT_GT(again, 0.01 * kept);
  }
}

// In f32 an element's weight and both moments are read and written, its gradient is read twice, for the norm and the update, and cleared.
TEST(Plan, AnUpdateMovesNineWordsAnElement) {
  const PlannedJob job = planned(small_job({}, false));
  Arena nowhere(Backing::none, kUnlimited);
  Holdings held(job.options, Mesh::planned(0, job.degrees), nowhere);
  const Counted update = measure_end(job.options, job.degrees, held, job.optimizer).update;
  double bytes = 0;
  for (const Metered& call : update.calls) bytes += call.cost.bytes;
  const auto elements = static_cast<double>(held.flat.value_bytes()) / 4;
  EXPECT_GE(bytes, 36 * elements);
  EXPECT_LE(bytes, 36 * elements + 16.0 * static_cast<double>(update.calls.size()));  // scalars, and sums of squares
}

}  // namespace
}  // namespace offramp::testing
