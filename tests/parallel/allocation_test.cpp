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
  job.options.microbatches = job.global_batch / job.data;
  const Degrees degrees{1, job.pipeline, job.data};
  run_in_process(
      job.pipeline * job.data,
      [&](Group world) {
        const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), degrees));
        Machine machine(job.options, Mesh(world, degrees), Backing::host, plan.peak, [world] { world.progress(); });
        machine.flat().initialize(machine.context(), 1234);
        fill_inputs(machine, job);
        PhaseTimes times;
        machine.train("step 1", times);
        wait_for_all(machine, world);
        const std::size_t after_one = system_allocations();
        for (int step = 0; step < 20; ++step) machine.train("a later step", times);
        machine.evaluate(1, "validation", times);
        wait_for_all(machine, world);
        EXPECT_EQ(system_allocations(), after_one) << "rank " << world.rank();
        wait_for_all(machine, world);
      },
      job.sends);
}

TEST(Machine, TakesNoMemoryAfterTheFirstStep) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  expect_no_allocation(job);
  job.pipeline = job.data = 2;
  expect_no_allocation(job);
}

}  // namespace
}  // namespace offramp::testing
