// Limits of bytes: what auto finds keeps within them, uses what they leave, and gives the same bits; what cannot keep them is refused
// with the bytes that it needs.
#include "parallel/memory_limit.h"

#include <regex>

#include "parallel/plan.h"
#include "parallel/work.h"
#include "tensor/check.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

SmallJob four_stages(const char* schedule, const char* placement = "auto") {
  SmallJob job = small_job(exits_of_every_kind(), true);
  job.pipeline = 4;
  job.options.schedule = schedule, job.options.exit_placement = placement, job.options.in_flight = "any";
  return job;
}

StepPlan planned(const SmallJob& job, std::size_t limit = 0) {
  PlannedJob planned{job.options, job.degrees(), {}};
  planned.options.microbatches = job.global_batch / job.data;
  planned.options.memory_limit = limit;
  return plan_step(planned, Cluster{});
}

// By what auto goes by: FLOPs.
double length(const SmallJob& job, const StepPlan& plan) {
  Arena nowhere(Backing::none, kUnlimited);
  Holdings held(job.options, Mesh::planned(0, job.degrees()), nowhere);
  const Times times = work_times(held.model, held.partition, plan.layout,
                                 {.micro_batch_size = job.options.micro_batch_size, .sequence_length = job.options.sequence_length});
  return simulate(plan.schedule, plan.layout, times).seconds;
}

std::size_t peak(const StepPlan& plan) {
  std::size_t most = 0;
  for (const RankPlan& rank : plan.ranks) most = std::max(most, rank.memory.peak);
  return most;
}

std::size_t needed(const SmallJob& job) {
  try {
    planned(job, 1);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    const std::string text = error.what();
    std::smatch match;
    EXPECT_TRUE(std::regex_search(text, match, std::regex("pipeline rank \\d needs (at least )?(\\d+) bytes with schedule"))) << text;
    return std::stoul(match[2]);
  }
  ADD_FAILURE() << "one byte is enough";
  return 0;
}

TEST(MemoryLimit, IsKeptByAutoAndUsed) {
  for (const int tensor : {1, 2}) {  // 61 words: the parts of two tensor ranks differ
    SmallJob job = four_stages("auto");
    job.tensor = tensor;
    const StepPlan free = planned(job);
    const std::size_t least = needed(job), most = peak(free);
    ASSERT_LT(least, most);
    for (int part = 0; part <= 8; ++part) {
      const std::size_t limit = least + (most - least) * static_cast<std::size_t>(part) / 8;
      EXPECT_LE(peak(planned(job, limit)), limit) << part;
    }
    const StepPlan lowest = planned(job, least);
    EXPECT_GT(length(job, lowest), 1.1 * length(job, free));
    EXPECT_LE(length(job, planned(job, most)), 1.02 * length(job, free));
    EXPECT_THROW(planned(job, least - 1), Error);
  }
}

// Where a named schedule fits, auto is not longer.
TEST(MemoryLimit, LosesToNoNamedSchedule) {
  for (const char* named : {"1f1b", "zero_bubble", "gpipe"}) {
    const StepPlan known = planned(four_stages(named));
    const StepPlan found = planned(four_stages("auto"), peak(known));
    EXPECT_LE(length(four_stages("auto"), found), length(four_stages(named), known) * (1 + 1e-9)) << named;
  }
}

TEST(MemoryLimit, OfSeveralStagesARankIsKeptAndUsed) {
  const auto two_ranks = [](const char* schedule) {
    SmallJob job = four_stages(schedule);
    job.pipeline = 2, job.options.virtual_stages = 2;
    return job;
  };
  const SmallJob job = two_ranks("auto");
  const std::size_t least = needed(job);
  EXPECT_LE(peak(planned(job, least)), least);
  for (const char* named : {"interleaved", "gpipe"}) {
    const StepPlan known = planned(two_ranks(named)), found = planned(job, peak(known));
    EXPECT_LE(peak(found), peak(known)) << named;
    EXPECT_LE(length(job, found), length(two_ranks(named), known) * (1 + 1e-9)) << named;
  }
}

TEST(MemoryLimit, OfBytesAndOfMicrobatchesTheTighterHolds) {
  SmallJob job = four_stages("auto");
  const StepPlan free = planned(job);
  job.options.in_flight = "2";
  const StepPlan two = planned(job, peak(free));
  for (const RankPlan& rank : two.ranks) EXPECT_LE(rank.in_flight, 2);
  EXPECT_LE(peak(planned(job, peak(two) - 1)), peak(two) - 1);
}

TEST(MemoryLimit, OfANamedScheduleIsACheck) {
  for (const char* named : {"gpipe", "1f1b", "zero_bubble"}) {
    const SmallJob job = four_stages(named, "before_backward");
    const StepPlan free = planned(job);
    EXPECT_EQ(needed(job), peak(free)) << named;
    EXPECT_EQ(planned(job, peak(free)).schedule, free.schedule) << named;
    EXPECT_THROW(planned(job, peak(free) - 1), Error) << named;
  }
}

// What runs exits early keeps their gradients longer: under a limit automatic placement may not.
TEST(MemoryLimit, MovesExits) {
  const SmallJob job = four_stages("1f1b");
  const std::size_t late = peak(planned(four_stages("1f1b", "before_backward")));
  EXPECT_GT(peak(planned(four_stages("1f1b", "after_forward"))), late);
  EXPECT_LE(peak(planned(job, late)), late);
}

TEST(MemoryLimit, LeavesTheBits) {
  SmallJob job = four_stages("gpipe");
  const StepResult expected = run_small_job(job);
  job.options.schedule = "auto";
  const std::size_t least = needed(job);
  for (const std::size_t limit : {least, least + least / 8}) {
    job.options.memory_limit = limit;
    const StepResult result = run_small_job(job);
    EXPECT_EQ(result.sums, expected.sums);
    EXPECT_EQ(result.grads, expected.grads);
    for (const auto& [plan, unused] : result.peaks) EXPECT_LE(plan.peak, limit);
  }
}

}  // namespace
}  // namespace offramp::testing
