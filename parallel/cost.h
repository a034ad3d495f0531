// What a step's actions cost: the same code that computes, run once in plan mode for each kind of unit and each exit, and counted.
// A cluster turns the counts into seconds for the simulator.
//
//   const std::vector<ModelWork> works = measure_passes(options, degrees, passes);
//   const Times times = times_of({works, &partition, ends}, layout, setting, cluster);
//   const Timeline timeline = simulate(schedule, layout, times);
#pragma once
#include "optim/optimizer.h"
#include "parallel/cluster.h"
#include "parallel/holdings.h"
#include "parallel/simulate.h"

namespace offramp {

// Operations and messages in the order in which they run.
struct Counted {
  std::vector<Metered> calls;
  Counted& operator+=(const Counted& other);
  double flops() const;
  double sent(std::string_view wire) const;
};
// Of a unit, for one microbatch. Weight gradients are apart: a schedule may run them later.
struct UnitWork {
  Counted forward, backward, weight;
};
// Of an exit: whole, or of a head that is split over the pipeline T, S, G, H, U; of the vocabulary's parts, which differ by a granule,
// the first stands for all.
struct ExitWork {
  Counted whole;
  std::array<Counted, 5> parts;
  bool taught = false;  // it makes its teacher's logits as well
  Counted& of(Op op);
  const Counted& of(Op op) const { return const_cast<ExitWork*>(this)->of(op); }
};
// Of one pass.
struct ModelWork {
  UnitWork embedding, attention, mlp;  // all layers are alike
  Counted final;                       // what the final head reads, made for those that it teaches: the last stage's, after its units
  std::vector<ExitWork> exits;         // the final head last; nothing of those that the pass leaves out
  Metered message;                     // a microbatch's activations, or their gradient, to the next stage
  Metered statistics;                  // of a microbatch's scores, from one rank to another
  double layer_share = 1;              // of the FLOPs of a layer of the whole model
  double width_share = 1;              // of its residual stream
};
// One for each of the passes of a layout of them.
std::vector<ModelWork> measure_passes(const MachineOptions& options, const Degrees& degrees, const std::vector<Pass>& passes);
ModelWork measure_work(const MachineOptions& options, const Degrees& degrees);  // of the whole model

// What the units of a stage cost together.
struct StageWork {
  Counted forward, backward, weight;
};
StageWork stage_work(const ModelWork& work, Units units);

// What an action's pass runs of its stage's units.
Units units_of(const Action& action, const Partition& partition, const Layout& layout);

// An action's work; of sums over data ranks and ties none (see StageEnd).
Counted work_of(const Action& action, std::span<const ModelWork> passes, const Partition& partition, const Layout& layout);

// What a stage's reductions send and cost once a step, by the stage's buckets and ties.
struct StageEnd {
  int stage = 0;
  std::vector<Counted> buckets, ties;  // D, Y: in the layout's numbers; of ties that this stage does not hold none
};
struct RankEnd {
  std::vector<StageEnd> stages;  // of the rank, from the lowest
  Counted update;                // gradients cleared, norm, optimizer, and what hands updated values round
};
RankEnd measure_end(const MachineOptions& options, const Degrees& degrees, Holdings& held, const OptimizerConfig& optimizer);

// Seconds of every action; given times are those of the whole model, and of a narrow pass as many as its share of FLOPs. The function holds
// its own table and may be kept.
struct Costs {
  std::span<const ModelWork> passes;
  const Partition* partition = nullptr;
  std::span<const StageEnd> ends{};  // a stage each; empty: sums and ties are free
};
Times times_of(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster);

}  // namespace offramp
