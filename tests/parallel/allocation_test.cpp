// All memory is taken before the first step: the system's allocator serves nothing afterwards, on any rank.
#include <gtest/gtest.h>

#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

void wait_for_all(Machine& machine, const Group& world) {
  double one = 1;
  all_reduce(machine.context(), Tensor(&one, {1}, DType::f64), world).wait(machine.context());
}

// The ranks are threads of this process, so its count is the sum of theirs: none may still build while another counts.
void expect_no_allocation(SmallJob job) {
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  const Degrees degrees = job.degrees();
  run_in_process(
      degrees.world(),
      [&](Group world) {
        const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), degrees));
        Machine machine(job.options, Mesh(world, degrees), Backing::host, plan.peak, [world] { world.progress(); });
        machine.flat().initialize(machine.context(), 1234);
        fill_inputs(machine, job);
        const LogicalNames names(machine.model());
        PhaseTimes times;
        machine.train("step 1", times);
        reduce_statistics(machine, names);
        if (job.optimizer) update(machine, *job.optimizer, 1);
        wait_for_all(machine, world);
        const std::size_t after_one = system_allocations();
        for (int step = 2; step < 22; ++step) {
          fill_zero(machine.context(), machine.statistics());
          machine.train("a later step", times);
          reduce_statistics(machine, names);
          if (job.optimizer) update(machine, *job.optimizer, step);
        }
        machine.evaluate(1, "validation", times);
        wait_for_all(machine, world);
        EXPECT_EQ(system_allocations(), after_one) << "rank " << world.rank();
        wait_for_all(machine, world);
      },
      job.sends);
}

TEST(Machine, TakesNoMemoryAfterTheFirstStepOverTensorRanks) {
  for (const char* architecture : {"llama", "gpt2"})
    for (const bool rows : {false, true}) {
      SmallJob job = small_job(exits_of_every_kind(), true, architecture);
      job.tensor = job.data = 2;
      job.options.sequence_parallel = job.options.shard_state = rows;
      job.options.precision = rows ? DType::bf16 : DType::f32;
      job.options.model.attention_dropout = job.options.model.hidden_dropout = 0.1;
      job.optimizer = OptimizerConfig{.lr = 1e-3};
      expect_no_allocation(job);
    }
}

TEST(Machine, TakesNoMemoryAfterTheFirstStep) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  expect_no_allocation(job);
  job.pipeline = job.data = 2;
  expect_no_allocation(job);
  job.options.shard_state = true;
  expect_no_allocation(job);
}

}  // namespace
}  // namespace offramp::testing
