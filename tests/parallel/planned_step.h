// A step that runs beside its plan: bytes sent, and memory.
#pragma once
#include "parallel/plan.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {

inline OptimizerConfig adamw() {
  OptimizerConfig optimizer;
  optimizer.lr = 1e-3;
  return optimizer;
}

inline PlannedJob planned(SmallJob job) {
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  if (!job.passes.empty()) job.options.step_passes = {job.passes};
  return {job.options, job.degrees(), adamw(), job.passes};
}

// Bytes by the kind of group that this rank's step really sends, and the machine's own plan of its memory.
inline std::pair<std::map<std::string, double>, MemoryPlan> run_step(const PlannedJob& job, const SmallJob& small, const Group& world) {
  const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), job.degrees));
  Machine machine(job.options, Mesh(world, job.degrees), Backing::host, plan.peak, [world] { world.progress(); });
  machine.flat().initialize(machine.context(), 1234);
  if (!job.passes.empty()) machine.set_passes(job.passes);
  fill_inputs(machine, small);
  if (machine.teacher()) machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline);
  Profile profile;
  machine.context().profile = &profile;
  PhaseTimes times;
  machine.train("a step", times);
  update(machine, job.optimizer, 1);
  return {profile.sent_bytes, machine.memory()};
}

inline void expect_planned(const SmallJob& small) {
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

}  // namespace offramp::testing
