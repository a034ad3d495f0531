// All that the steps of a plan may be (optim/step_plan.h), without going through them: for whoever takes memory, and makes schedules,
// before the first step. A superset: some of it may never be drawn.
#pragma once
#include "optim/step_plan.h"

namespace offramp {

struct PossibleSteps {
  std::vector<Pass> kinds;                // of passes that differ in what they compute one each, the whole first
  std::vector<std::vector<Pass>> shapes;  // of lists of passes that differ in more than widths one each
};
PossibleSteps possible_steps(const SupernetConfig& supernet, const ModelConfig& model);

// How many of both there are at most. Each costs time at the start of a job, so its configuration is held to this.
inline constexpr double kMostKinds = 4096, kMostShapes = 256;
double kinds_of(const SupernetConfig& supernet);
double shapes_of(const SupernetConfig& supernet);

}  // namespace offramp
