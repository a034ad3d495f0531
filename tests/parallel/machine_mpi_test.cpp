// The whole machine over MPI: whatever the layout of the ranks, each has the gradients that one rank alone computes. Buckets are
// small, so that the last backward has several segments and their sums overlap; in the second case they go piece by piece.
#include <gtest/gtest.h>

#include "tests/mpi_main.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

using testing_mpi::world;

// Owners along the pipeline have every tensor once; on every data rank alike.
void expect_all_owned(const RankResult& mine, const StepResult& alone, int data) {
  double owned = static_cast<double>(mine.grads.size());
  all_reduce(testing_mpi::context(), Tensor(&owned, {1}, DType::f64), world()).wait(testing_mpi::context());
  EXPECT_EQ(owned, static_cast<double>(alone.grads.size()) * data);
}

void check_layout(SmallJob job, const StepResult& alone, int pipeline) {
  job.pipeline = pipeline;
  job.data = world().size() / pipeline;
  const auto what = fmt::format("pipeline {} data {}, buckets of {}", job.pipeline, job.data, job.options.bucket_elements);
  const RankResult mine = run_rank(job, world(), 2);  // the second step starts from used memory
  expect_close(alone.sums, mine.sums, 2e-6, what);
  for (const auto& [name, grad] : mine.grads) expect_close(alone.grads.at(name), grad, 2e-6, what + ": " + name);
  expect_all_owned(mine, alone, job.data);
}

TEST(MachineOverMpi, EveryLayoutGivesTheNumbersOfOneRank) {
  for (const bool tied : {false, true})
    for (const std::int64_t bucket : {4000, 20'000}) {
      SmallJob job = small_job(exits_of_every_kind(), tied);
      job.options.bucket_elements = bucket;
      job.global_batch = world().size() % 3 == 0 ? 6 : 8;
      const StepResult alone = run_small_job(job, 2);
      for (int pipeline = 1; pipeline <= world().size(); ++pipeline)
        if (world().size() % pipeline == 0) check_layout(job, alone, pipeline);
    }
}

}  // namespace
}  // namespace offramp::testing
