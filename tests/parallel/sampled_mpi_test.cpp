// Thirty jobs drawn with a fixed seed, over 1, 2, 4 and 8 ranks of MPI: whatever the schedule, the losses and gradients are gpipe's, bit
// for bit, at the same stages, layers of each, and parts of heads. Smaller jobs run side by side.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/mpi_main.h"
#include "tests/parallel/layouts.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

using test::coin, test::pick;
using testing_mpi::world;

template <class T, std::size_t N>
T one_of(test::Random& random, const T (&values)[N]) {
  return values[pick(random, 0, static_cast<int>(N) - 1)];
}

std::vector<ExitSpec> some_exits(test::Random& random) {
  std::vector<ExitSpec> exits = exits_of_every_kind();
  std::erase_if(exits, [&](const ExitSpec&) { return coin(random); });
  return exits;
}

// Each stage has a layer at least.
std::vector<int> some_partition(test::Random& random, int layers, int stages) {
  std::vector<int> of_stages(static_cast<std::size_t>(stages), 1);
  for (int left = layers - stages; left > 0; --left) ++of_stages[static_cast<std::size_t>(pick(random, 0, stages - 1))];
  return of_stages;
}

void choose_degrees(test::Random& random, int ranks, SmallJob& job) {
  do job.tensor = 1 << pick(random, 0, 2);
  while (job.tensor > ranks);
  do job.pipeline = 1 << pick(random, 0, 3);
  while (job.tensor * job.pipeline > ranks);
  job.data = ranks / (job.tensor * job.pipeline);
  job.options.sequence_parallel = job.tensor > 1 && coin(random);
  job.options.shard_state = job.data > 1 && coin(random);
  job.options.split_heads = coin(random);
  if (job.pipeline > 1 && coin(random)) job.options.virtual_stages = pick(random, 1, 8 / job.pipeline);
  if (coin(random)) job.options.layers_per_stage = some_partition(random, 8, job.pipeline * job.options.virtual_stages);
}

void choose_schedule(test::Random& random, MachineOptions& options) {
  options.schedule = options.virtual_stages > 1 ? one_of(random, {"interleaved", "interleaved", "gpipe", "auto"})
                                                : one_of(random, {"1f1b", "zero_bubble", "zero_bubble", "auto", "auto"});
  options.exit_placement = one_of(random, {"after_forward", "before_backward", "auto"});
  options.recompute = one_of(random, {"none", "selective", "full"});
  if (options.schedule == "auto") options.in_flight = one_of(random, {"1f1b", "1f1b+1", "3", "20"});
}

SmallJob sampled_job(test::Random& random, int ranks) {
  const bool tied = coin(random), llama = coin(random);
  SmallJob job = small_job(some_exits(random), tied, llama ? "llama" : "gpt2");
  choose_degrees(random, ranks, job);
  choose_schedule(random, job.options);
  MachineOptions& options = job.options;
  options.precision = pick(random, 0, 2) == 0 ? DType::bf16 : DType::f32;
  options.micro_batch_size = pick(random, 1, 2);
  options.bucket_elements = one_of(random, {4000, 20'000});
  if (coin(random)) options.model.hidden_dropout = options.model.attention_dropout = 0.1;
  const int microbatches = options.schedule == "interleaved" ? job.pipeline * pick(random, 1, 3) : pick(random, 1, 9);
  job.global_batch = microbatches * static_cast<int>(options.micro_batch_size) * job.data;
  return job;
}

std::string text(const SmallJob& job) {
  const MachineOptions& o = job.options;
  return fmt::format("{} stages a rank {} layers {} {} exits {} in flight {} recompute {} batch {} of {}, {} exits", job.text(),
                     o.virtual_stages, fmt::join(o.layers_per_stage, "+"), o.schedule, o.exit_placement, o.in_flight, o.recompute,
                     job.global_batch, o.micro_batch_size, o.exits.size());
}

// NaN marks what others hold.
void expect_same_bits(const ByName& tensors, const ByName& expected, const std::string& what) {
  ASSERT_EQ(tensors.size(), expected.size()) << what;
  for (const auto& [name, values] : expected) {
    const std::vector<float>& mine = tensors.at(name);
    ASSERT_EQ(mine.size(), values.size()) << what << ": " << name;
    EXPECT_EQ(std::memcmp(mine.data(), values.data(), values.size() * sizeof(float)), 0) << what << ": " << name;
  }
}

void check(SmallJob job, const Group& ranks) {
  const std::string what = text(job);
  testing_mpi::context().activity->begin(what);
  const RankResult mine = run_rank(job, ranks, 2);  // the second step starts from used memory
  job.options.schedule = "gpipe", job.options.exit_placement = "after_forward", job.options.recompute = "none";
  const RankResult expected = run_rank(job, ranks, 2);
  EXPECT_EQ(mine.sums, expected.sums) << what;
  expect_same_bits(mine.grads, expected.grads, what);
}

TEST(Sampled, JobsGiveTheBitsOfGpipe) {
  test::Random random(6);
  for (const auto& [ranks, jobs] : {std::pair(1, 4), {2, 8}, {4, 9}, {8, 9}}) {
    ASSERT_EQ(world().size() % ranks, 0);
    const int groups = world().size() / ranks, mine = world().rank() / ranks;
    const Group group = world().split(mine, world().rank(), Wire::control);
    for (int i = 0; i < jobs; ++i) {
      const SmallJob job = sampled_job(random, ranks);
      if (i % groups == mine) check(job, group);
    }
  }
}

}  // namespace
}  // namespace offramp::testing
