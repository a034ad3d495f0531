// What a step's actions cost: the same code that computes, run once in plan mode for each kind of unit and each exit, and counted.
// A cluster turns the counts into seconds for the simulator.
//
//   const ModelWork work = measure_work(options, degrees);
//   const Times times = times_of(work, partition, layout, setting, cluster);
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
  Counted& of(Op op);
  const Counted& of(Op op) const { return const_cast<ExitWork*>(this)->of(op); }
};
struct ModelWork {
  UnitWork embedding, attention, mlp;  // all layers are alike
  std::vector<ExitWork> exits;         // the final head last
  Metered message;                     // a microbatch's activations, or their gradient, to the next stage
  Metered statistics;                  // of a microbatch's scores, from one rank to another
};
ModelWork measure_work(const MachineOptions& options, const Degrees& degrees);

// What the units of a stage cost together.
struct StageWork {
  Counted forward, backward, weight;
};
StageWork stage_work(const ModelWork& work, Units units);

// An action's work; of sums over data ranks and ties none (see Reductions).
Counted work_of(const Action& action, const ModelWork& work, const Partition& partition, const Layout& layout);

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

// Seconds of every action. The function holds its own table and may be kept.
struct Costs {
  const ModelWork* work = nullptr;
  const Partition* partition = nullptr;
  std::span<const StageEnd> ends{};  // a stage each; empty: sums and ties are free
};
Times times_of(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster);

}  // namespace offramp
