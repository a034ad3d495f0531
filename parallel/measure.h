// Runs one of each kind of action in plan mode, over memory that does not exist: what slabs and scratch of a rank must hold, and how
// many FLOPs there are.
#pragma once
#include "parallel/holdings.h"
#include "parallel/interpreter.h"

namespace offramp {

// Of one microbatch through all stages of the rank. What is made again does not count.
struct PassMeasure {
  double forward_flops = 0;
  double flops = 0;  // forward, exits, backward
};
struct RankMeasure {
  std::size_t stash = 0, deferred = 0, head_stash = 0, scratch = 0;  // bytes of the largest
  std::vector<PassMeasure> passes;
};

struct MeasuredRank {
  const MachineOptions& options;
  const Mesh& mesh;
  Holdings& held;
  const Layout& layout;  // of training
  const MicrobatchInput& input;
  Tensor scale, sums, squares;  // [1] f32, [kLossSums] f64, [logical tensors] f64
  Shape activations;
  Keep keep = Keep::everything;
  std::vector<Pass> passes{};       // that training runs
  std::vector<Subnet> evaluated{};  // besides
};
RankMeasure measure_rank(const MeasuredRank& rank);

}  // namespace offramp
