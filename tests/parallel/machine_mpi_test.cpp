// The whole machine over MPI: whatever the layout of the ranks, they have the gradients that one rank alone computes. Buckets are
// small, so that the last backward has several segments and their sums overlap; in the second case they go piece by piece.
#include <gtest/gtest.h>

#include "tests/mpi_main.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

using testing_mpi::world;

// Every element of every tensor is answered for by some rank.
void expect_all_held(const RankResult& mine, const ByName& expected) {
  for (const auto& [name, values] : expected) {
    std::vector<double> held(values.size(), 0.0);
    if (const auto it = mine.grads.find(name); it != mine.grads.end())
      for (std::size_t i = 0; i < held.size(); ++i) held[i] = std::isnan(it->second[i]) ? 0 : 1;
    const Tensor count(held.data(), {static_cast<std::int64_t>(held.size())}, DType::f64);
    all_reduce(testing_mpi::context(), count, world()).wait(testing_mpi::context());
    EXPECT_GE(*std::min_element(held.begin(), held.end()), 1) << name;
  }
}

void check_layout(const SmallJob& job, const StepResult& alone, double tolerance) {
  const std::string what = job.text() + fmt::format(" buckets of {}", job.options.bucket_elements);
  testing_mpi::context().activity->begin(what);       // of what may hang: one layout, not the whole test
  const RankResult mine = run_rank(job, world(), 2);  // the second step starts from used memory
  expect_close(mine.sums, alone.sums, tolerance, what);
  expect_close(mine.grads, alone.grads, tolerance, what);
  expect_all_held(mine, alone.grads);
}

TEST(MachineOverMpi, EveryLayoutGivesTheNumbersOfOneRank) {
  for (const bool tied : {false, true})
    for (const std::int64_t bucket : {4000, 20'000}) {
      SmallJob job = small_job(exits_of_every_kind(), tied);
      job.options.bucket_elements = bucket;
      job.global_batch = world().size() % 3 == 0 ? 6 : 8;
      const StepResult alone = run_small_job(job, 2);
      for (job.pipeline = 1; job.pipeline <= world().size(); ++job.pipeline) {
        job.data = world().size() / job.pipeline;
        if (world().size() % job.pipeline == 0) check_layout(job, alone, 2e-6);
      }
    }
}

// Sizes that two, three and four tensor ranks share.
SmallJob divisible_job(const std::string& architecture) {
  std::vector<ExitSpec> exits = exits_of_every_kind();
  for (std::size_t i = 0; i < exits.size(); ++i) exits[i].layer = static_cast<int>(i) + 1;
  SmallJob job = small_job(exits, true, architecture);
  ModelConfig& m = job.options.model;
  m.num_hidden_layers = 6;
  m.hidden_size = 48;
  m.num_attention_heads = m.num_key_value_heads = 12;
  m.max_position_embeddings = job.options.sequence_length = 12;
  job.options.micro_batch_size = 2;
  return job;
}

// With tensor ranks of every count that divides the world: the rest are stages, or data ranks.
std::vector<SmallJob> tensor_layouts(SmallJob job) {
  std::vector<SmallJob> all;
  const int size = world().size();
  for (job.tensor = 2; job.tensor <= size; ++job.tensor) {
    if (size % job.tensor != 0) continue;
    for (const bool stages : {false, true}) {
      job.pipeline = stages ? size / job.tensor : 1;
      job.data = stages ? 1 : size / job.tensor;
      if (stages && job.pipeline == 1) continue;
      for (const bool split : {false, true}) {
        job.options.sequence_parallel = split, job.options.shard_state = split && job.data > 1;
        all.push_back(job);
      }
    }
  }
  return all;
}

// Another order of sums: see kRounding in machine_layouts_test.cpp.
TEST(MachineOverMpi, TensorRanksGiveTheNumbersOfOne) {
  for (const char* architecture : {"llama", "gpt2"}) {
    const SmallJob job = divisible_job(architecture);
    const StepResult alone = run_small_job(job, 2);
    for (const SmallJob& layout : tensor_layouts(job)) check_layout(layout, alone, 1e-5);
  }
}

// What is rounded to bf16 has the same bits on any transport: sums of bf16 have one order.
TEST(MachineOverMpi, Bf16GivesTheNumbersOfInProcessRanks) {
  for (const char* architecture : {"llama", "gpt2"}) {
    SmallJob job = divisible_job(architecture);
    job.options.precision = DType::bf16;
    for (const SmallJob& layout : tensor_layouts(job)) {
      testing_mpi::context().activity->begin("threads of " + layout.text());
      check_layout(layout, run_small_job(layout, 2), 1e-5);
    }
  }
}

TEST(MachineOverMpi, WeightsAfterUpdatesAreThoseOfOneRank) {
  SmallJob job = divisible_job("gpt2");
  job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
  const StepResult alone = run_small_job(job, 3);
  for (const SmallJob& layout : tensor_layouts(job)) expect_close(run_rank(layout, world(), 3).weights, alone.weights, 1e-5, layout.text());
}

}  // namespace
}  // namespace offramp::testing
