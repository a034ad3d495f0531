// What a step trains: a list of passes over the same samples, a pure function of the step's number and the seed. Every training mode is
// such a plan: pretraining and tuning have one pass a step, supernets several, whose gradients add up before one update.
//
//   full          the whole model                                                              (pretraining)
//   sandwich      the whole, the smallest and some random subnets in every step                (BigNAS, arXiv 2003.11142)
//   deps          the whole alone until `start`, then as sandwich, whose subnets' gradients grow from nothing to their full weight over
//                 `ramp` steps                                                                 (DepS, 2407.06167)
//   ofa           the whole alone until `start`, then random subnets that learn from what it was then, of one more axis in each
//                 phase                                                                        (OFA, 1908.09791)
//   matformer     one random width of the MLPs a step                                          (MatFormer, 2310.07707)
//   nested_depth  the whole, its exits with the weight of a subnet                             (depth alone is elastic)
//
// Subnets of whole width are the whole's exits, of which its pass trains all: no other pass is spent on one.
#pragma once
#include <functional>

#include "models/subnet.h"

namespace offramp {

// Who a pass learns from: the labels, the whole model's own output in the same step, or that of the model as it was when the subnets'
// training began.
enum class Teaching : std::uint8_t { labels, whole, frozen };

struct Pass {
  Subnet subnet;      // shortened(): {} is the whole
  double weight = 1;  // of its loss
  Teaching teaching = Teaching::labels;
  bool regularise = true;  // dropout and LayerSkip are on
  bool operator==(const Pass&) const = default;
};

// What happens before a step's passes.
struct StepPasses {
  bool sorts = false;           // elastic axes are put in order of importance
  bool copies_teacher = false;  // the frozen teacher becomes what the model is
  std::vector<Pass> passes;     // the biggest first; the whole, where it is among them, is the first
};

enum class PlanKind : std::uint8_t { full, sandwich, deps, ofa, matformer, nested_depth };

struct SupernetConfig {
  PlanKind plan = PlanKind::full;
  Space space;                      // empty: the model is no supernet
  std::int64_t random_subnets = 2;  // a step
  std::int64_t start = 0;           // steps of the whole alone, before subnets are trained
  std::int64_t ramp = 0;            // steps until subnets have their full weight
  bool distillation = true;         // subnets learn from the whole (ofa: from what it was), not from labels
  double temperature = 1;           // of both distributions
  std::int64_t sort_step = 0;       // before this step axes are sorted by importance; 0: never
};

// Of the whole job, what a plan depends on besides.
struct PlanOf {
  const ModelConfig& model;
  std::int64_t steps = 0;
  std::uint64_t seed = 0;
  // The learning rate of a step, where an update's size is proportional to it (SGD): the ramp is then one of effective rates. Empty:
  // gradients are weighted linearly (Adam, whose updates do not grow with its gradients).
  std::function<double(std::int64_t)> rate = {};
};
// Of step t, from 1.
StepPasses step_plan(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t);

}  // namespace offramp
