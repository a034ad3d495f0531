// What a step trains: a list of passes over the same samples, a pure function of the step's number and the seed. Every training mode is
// such a plan: pretraining and tuning have one pass a step, supernets several, whose gradients add up before one update.
//
//   full          the whole model                                                           (pretraining)
//   sandwich      the whole, the smallest and some random subnets in every step             (BigNAS, arXiv 2003.11142)
//   deps          the whole alone up to step `start`, then a sandwich whose subnets get their full weight over `ramp` steps
//                                                                                           (DepS, 2407.06167)
//   ofa           the whole alone up to step `start`, then random subnets that learn from what it was then; one more axis is elastic in
//                 each of as many equal phases: depth, MLPs, groups, queries, width           (OFA, 1908.09791: progressive shrinking)
//   matformer     one random width of the MLPs a step                                       (MatFormer, 2310.07707)
//   nested_depth  the whole, whose exits are the subnets                                    (depth alone is elastic)
//
// A subnet of whole width is an exit of the whole: its pass trains all of them, and no other is spent on one. So ofa's first phase, of
// elastic depth, is the whole whose exits learn from what it was; later a draw of whole width is that pass, as likely as any other.
//
// Random subnets are drawn by (seed, step, number of the draw), evenly over the space. None is trained twice in a step: a draw of one that
// the step has, in a sandwich any of whole width, is drawn again; where there are fewer others than asked for, the step has fewer passes.
#pragma once
#include <array>
#include <functional>

#include "models/subnet.h"

namespace offramp {

// Who a pass learns from: the labels; the whole model's own output in the same step, detached; that of the model as it was when its
// subnets' training began; or nobody: the pass is that model's own, goes forward alone, and teaches.
enum class Teaching : std::uint8_t { labels, whole, frozen, nobody };

struct Pass {
  Subnet subnet;      // {}: the whole
  double weight = 1;  // of its loss
  Teaching teaching = Teaching::labels;
  bool regularise = true;  // dropout and LayerSkip are on
  bool operator==(const Pass&) const = default;
};

struct StepPasses {
  bool sorts = false;          // before them elastic axes are put in order of importance
  bool takes_teacher = false;  // before them the frozen teacher becomes what the model is
  std::vector<Pass> passes;    // the frozen teacher's, then the biggest first; who teaches is the first of all
};
// The frozen teacher's.
inline constexpr Pass kTeacherPass{.subnet = {}, .weight = 0, .teaching = Teaching::nobody, .regularise = false};

enum class PlanKind : std::uint8_t { full, sandwich, deps, ofa, matformer, nested_depth };

struct SupernetConfig {
  bool enabled = false;
  PlanKind plan = PlanKind::deps;
  Space space;
  std::int64_t random_subnets = 2;  // a step
  std::int64_t start = 0;           // deps, ofa: steps of the whole alone
  std::int64_t ramp = 0;            // deps: steps until subnets have their full weight
  bool distillation = true;         // subnets learn from the whole (ofa: from what it was), not from labels
  double temperature = 1;           // of both distributions
  double label_weight = 0;          // of the labels' loss beside the whole's output
  std::int64_t sort_step = 0;       // before this step axes are sorted by importance; 0: never
};

// What of the job a plan depends on besides.
struct PlanOf {
  const ModelConfig& model;
  std::int64_t steps = 0;
  std::uint64_t seed = 0;
  // The learning rate of a step, where an update is proportional to it and to the gradient (SGD): then the ramp is one of effective
  // rates. Empty: weights ramp (Adam, whose updates do not grow with its gradients).
  std::function<double(std::int64_t)> rate = {};
};
// Of step t, from 1.
StepPasses step_passes(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t);

// The weight of subnets at step t of a ramp that begins with step `first`: min(1, (t - first + 1) / ramp), times rate(first + ramp) /
// rate(t) while it is below 1. A ramp beyond the last step goes towards that one's rate.
double ramp_weight(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t, std::int64_t first);

}  // namespace offramp
