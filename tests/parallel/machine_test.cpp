// The whole machine over in-process ranks: another schedule gives the same bits, another layout the same numbers, and what was
// planned is what was used.
#include <gtest/gtest.h>

#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

struct LayoutCase {
  int pipeline, data;
};

TEST(Machine, EveryLayoutGivesTheNumbersOfOneRank) {
  for (const bool tied : {false, true}) {
    SmallJob job = small_job(exits_of_every_kind(), tied);
    const StepResult alone = run_small_job(job);
    for (const auto [p, d] : {LayoutCase{2, 1}, {4, 1}, {8, 1}, {1, 2}, {1, 4}, {2, 2}, {2, 4}, {4, 2}}) {
      job.pipeline = p;
      job.data = d;
      expect_close(run_small_job(job), alone, 2e-6, job.text());
    }
  }
}

// Seven layers on three stages: the partition has a remainder to give away.
TEST(Machine, LayoutsOfThreeRanksGiveTheNumbersOfOne) {
  for (const bool tied : {false, true}) {
    std::vector<ExitSpec> exits = exits_of_every_kind();
    exits.back().layer = 7;
    SmallJob job = small_job(exits, tied);
    job.options.model.num_hidden_layers = 7;
    job.global_batch = 6;
    const StepResult alone = run_small_job(job);
    for (const auto [p, d] : {LayoutCase{3, 1}, {1, 3}, {3, 2}}) {
      job.pipeline = p;
      job.data = d;
      expect_close(run_small_job(job), alone, 2e-6, job.text());
    }
  }
}

TEST(Machine, SchedulesGiveEqualBits) {
  for (const bool tied : {false, true})
    for (const auto [p, d] : {LayoutCase{1, 1}, {2, 1}, {4, 1}, {8, 1}, {2, 2}, {4, 2}}) {
      SmallJob job = small_job(exits_of_every_kind(), tied);
      job.pipeline = p;
      job.data = d;
      job.options.schedule = "1f1b";
      const StepResult a = run_small_job(job);
      job.options.schedule = "gpipe";
      job.sends = Sends::buffered;
      const StepResult b = run_small_job(job, 2);  // the second step starts from used memory
      EXPECT_EQ(a.sums, b.sums);
      EXPECT_EQ(a.grads, b.grads) << job.text();
    }
}

TEST(Machine, UsesExactlyWhatWasPlanned) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  for (const char* schedule : {"gpipe", "1f1b"}) {
    job.options.schedule = schedule;
    for (const int p : {1, 2, 4, 8}) {
      job.pipeline = p;
      expect_all_used(run_small_job(job), schedule + (" " + job.text()));
    }
  }
}

TEST(Machine, EvaluationChangesNothingAndGivesTheTrainingLoss) {
  SmallJob job = small_job(exits_of_every_kind(), false);
  job.pipeline = 4;
  job.options.microbatches = job.global_batch;
  run_in_process(4, [&](Group world) {
    const Degrees degrees{1, 4, 1};
    const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), degrees));
    Machine machine(job.options, Mesh(world, degrees), Backing::host, plan.peak);
    machine.flat().initialize(machine.context(), 1234);
    fill_inputs(machine, job);
    PhaseTimes times;
    machine.train("step", times);
    const Tensor grads = machine.flat().all_gradients(), sums = machine.sums();
    const std::vector<float> before(grads.as<float>(), grads.as<float>() + grads.elements());
    const std::vector<double> trained(sums.as<double>(), sums.as<double>() + sums.elements());
    fill_zero(machine.context(), machine.statistics());
    const std::size_t requests = system_allocations();
    machine.evaluate(5, "validation", times);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), grads.as<float>()));
    fill_zero(machine.context(), machine.statistics());
    machine.evaluate(8, "validation", times);
    EXPECT_EQ(std::vector<double>(sums.as<double>(), sums.as<double>() + sums.elements()), trained);
    EXPECT_EQ(system_allocations(), requests);
  });
}

}  // namespace
}  // namespace offramp::testing
