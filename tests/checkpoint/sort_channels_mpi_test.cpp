// Channels are sorted over processes as on one rank: whatever the layout of the ranks, they have the bits that one has, and its losses.
#include "checkpoint/sort_channels.h"

#include <gtest/gtest.h>

#include "tests/mpi_main.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

using testing_mpi::world;

// Norms and biases begin with numbers of their own, so that it shows where they go.
void begin_sorted(Machine& machine) {
  for (Parameter* p : machine.flat().holders()) p->init = {.kind = Init::Kind::normal, .deviation = 0.2};
  machine.flat().initialize(machine.context(), 1234);
  EXPECT_EQ(sort_channels(machine).size(), 4u);
}

SmallJob sorted_job(DType precision) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  job.options.space = {.hidden_size = {16, 32}, .intermediate_size = {16, 48}, .num_key_value_heads = {2, 4}, .queries_per_group = {1, 2}};
  job.options.precision = precision;
  job.before = begin_sorted;
  return job;
}

// Bits of what this rank answers for; others hold what is NaN. Losses, of what all have that are copies of it.
void check_layout(const SmallJob& job, const StepResult& alone) {
  const std::string what = job.text();
  testing_mpi::context().activity->begin(what);
  const RankResult mine = run_rank(job, world());
  EXPECT_FALSE(mine.weights.empty()) << what;
  for (const auto& [name, values] : mine.weights) {
    const std::vector<float>& expected = alone.weights.at(name);
    ASSERT_EQ(values.size(), expected.size()) << what << ": " << name;
    std::size_t others = 0;
    for (std::size_t i = 0; i < values.size(); ++i) others += !std::isnan(values[i]) && values[i] != expected[i];
    EXPECT_EQ(others, 0u) << what << ": " << name << " of " << values.size();
  }
  // See kRounding and kBf16 in tests/parallel/machine_layouts_test.cpp.
  expect_close(mine.sums, alone.sums, job.options.precision == DType::bf16 ? 4 * 10 * 0x1p-9 : 1e-5, what);
}

TEST(SortChannelsOverMpi, EveryLayoutGivesTheBitsOfOneRank) {
  const int ranks = world().size();
  for (const DType precision : {DType::f32, DType::bf16}) {
    SmallJob job = sorted_job(precision);
    const StepResult alone = run_small_job(job);
    for (job.tensor = 1; job.tensor <= ranks; job.tensor *= 2)
      for (job.pipeline = 1; job.tensor * job.pipeline <= ranks; job.pipeline *= 2) {
        job.data = ranks / (job.tensor * job.pipeline);
        for (const bool sharded : {false, true}) {
          job.options.shard_state = sharded;
          if (job.data > 1 || !sharded) check_layout(job, alone);
        }
      }
  }
}

}  // namespace
}  // namespace offramp::testing
