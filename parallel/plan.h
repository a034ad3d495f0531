// A step of a job as planned: memory, work, messages and time of every rank, without any of them.
//
//   const StepPlan plan = plan_step({machine_options(config, degrees), degrees, config.optimizer}, cluster);
#pragma once
#include "parallel/cost.h"
#include "parallel/machine.h"

namespace offramp {

struct PlannedJob {
  MachineOptions options;
  Degrees degrees;
  OptimizerConfig optimizer;
  std::vector<Pass> passes{};  // of the step that is planned, one of options.step_passes but for widths; empty: one of the whole model
};

// Bytes that a rank sends in a step, by the kind of group.
struct SentBytes {
  double tensor = 0, pipeline = 0, data = 0;
};

// Data ranks are alike, and tensor ranks where they have equally many words.
struct RankPlan {
  int pipeline = 0, tensor = 0;  // the rank's place; tensor: the first of those that are alike
  MemoryPlan memory;             // not fused: activations are by unfused_memory.h
  int in_flight = 0;             // microbatches whose activations it keeps at most
  double flops = 0, busy_s = 0;
  SentBytes sent;
};

struct StepPlan {
  Degrees degrees;
  int tensor_ranks = 1;         // with plans of their own
  std::vector<RankPlan> ranks;  // by pipeline rank, then tensor rank
  Partition partition;
  Layout layout;
  Schedule schedule;
  Timeline timeline;
  double step_s = 0;               // with the update, which the timeline has not
  double lower_bound_s = 0;        // no schedule of these actions is shorter (of auto: none that keeps no more in flight)
  double bubble = 0;               // of the timeline, what ranks do not compute
  double messages_s = 0;           // how much shorter the step would be if all messages took no time
  double update_s = 0;             // of the step
  std::vector<double> pass_flops;  // of all ranks, by pass of the layout, without what is computed again
  double model_flops = 0;          // of all ranks, without what is computed again
  const RankPlan& of(const Coordinates& at) const;
};

// Without memory: what time alone asks.
StepPlan plan_time(const PlannedJob& job, const Cluster& cluster);
StepPlan plan_step(const PlannedJob& job, const Cluster& cluster);

}  // namespace offramp
