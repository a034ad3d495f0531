// Placement: which stage runs which unit, and what follows from it: where every exit and every tied tensor lives, how the last
// backward is cut into segments, and the Layout that schedules are made for. Pure functions of the model and the sizes, so every
// rank knows them of every rank.
#pragma once
#include <set>

#include "models/flat.h"
#include "models/model.h"
#include "optim/step_plan.h"
#include "parallel/schedule.h"

namespace offramp {

struct Units {
  int begin = 0, end = 0;
  bool contains(int unit) const { return begin <= unit && unit < end; }
};

struct Partition {
  std::vector<int> first_unit;  // of each stage, and one past the last stage
  int stages() const { return static_cast<int>(first_unit.size()) - 1; }
  Units units(int stage) const { return {first_unit[static_cast<std::size_t>(stage)], first_unit[static_cast<std::size_t>(stage) + 1]}; }
  int stage_of(int unit) const;
};
// Whole layers, as even as can be; the embedding goes with the first. The first stages get what does not divide.
Partition even_partition(int layers, int stages);

// Visits every parameter with its stage: heads at their taps' stages, in exit order, then units. An output matrix that is split over
// the pipeline (Model::head_part) has a part on every rank, at its lowest stage, and comes once for each.
void visit_with_stage(Model& model, const Partition& partition, const std::function<void(Parameter&, int stage)>& visit);

// A logical tensor that learns, and that several stages hold or several kinds of writer add to. Gradients are summed once a step: stages
// from the highest to the lowest, which owns it; on each stage heads, then units, then lookups. Where output matrices are split over the
// pipeline, each part of one that is also the embedding is a tie by itself, of its rank's lowest stage and of the embedding's.
struct Tie {
  std::string name;
  std::vector<int> stages;  // highest first; the last one owns the tensor
  int part = -1;            // of the pipeline's; -1: the whole tensor
};
// Names of the output matrices that are split over the pipeline.
std::set<std::string> split_outputs(Model& model);
std::vector<Tie> find_ties(Model& model, const Partition& partition);

// The stage's units in backward order, cut where about `bucket_elements` gradients have gathered.
std::vector<Units> cut_segments(Model& model, Units units, std::int64_t bucket_elements);

// A stage of a rank.
struct HeldStage {
  int number = 0;
  Units units;
  std::vector<Units> segments;  // of the last microbatch's backward
};

// The stage's parameters as Flat wants them.
std::vector<FlatEntry> flat_entries(Model& model, const Partition& partition, int stage, const std::vector<Units>& segments,
                                    const std::vector<Tie>& ties);

struct LayoutOptions {
  int microbatches = 1, stages_per_rank = 1;
  bool backward = true;
  bool reduce = false;  // sum gradients over data-parallel ranks
  std::int64_t bucket_elements = std::int64_t{1} << 22;
  std::vector<Pass> passes{};  // over the samples of each microbatch; empty: one, of the whole model
};
bool has_heads(const Model& model, const Partition& partition, int stage);
// Which of the model's heads a subnet ends with.
std::size_t last_head(const Subnet& subnet, const Model& model);
// What each pass runs: all exits of the whole model, of a subnet the head that it ends with, and of a frozen teacher none.
std::vector<PassPlace> place_passes(const std::vector<Pass>& passes, const Model& model, const Layout& layout);
Layout make_layout(Model& model, const Partition& partition, const std::vector<Tie>& ties, const LayoutOptions& options);

}  // namespace offramp
