#include "parallel/holdings.h"

#include <algorithm>
#include <iterator>

#include "parallel/partition.h"

namespace offramp {
namespace {

FlatOptions flat_options(const MachineOptions& options, const Mesh& mesh) {
  return {.values = options.precision,
          .optimizer_state = options.optimizer_state,
          .data_rank = mesh.at.data,
          .data_size = mesh.degrees.data,
          .shard_state = options.shard_state && mesh.degrees.data > 1};
}

PipelinePart head_part(const MachineOptions& options, const Mesh& mesh) {
  return options.split_heads ? PipelinePart{mesh.at.pipeline, mesh.degrees.pipeline} : PipelinePart{};
}

Model model_of(const MachineOptions& options, const Mesh& mesh) {
  return build_model(options.model, options.exits, model_options(options, mesh.tensor, head_part(options, mesh)));
}

// A frozen backbone may end within its last layer.
Partition stage_partition(const MachineOptions& options, const Model& model, int ranks) {
  const int units = static_cast<int>(model.units.size());
  Partition partition =
      options.layers_per_stage.empty() ? even_partition(units / 2, ranks * options.virtual_stages) : partition_of(options.layers_per_stage);
  partition.first_unit.back() = std::min(partition.first_unit.back(), units);
  return partition;
}

std::vector<HeldStage> stages_of(Holdings& held, std::int64_t bucket_elements) {
  std::vector<HeldStage> stages;
  for (int s = held.rank; s < held.partition.stages(); s += held.ranks) {
    const Units units = held.partition.units(s);
    stages.push_back({s, units, held.reduces() ? cut_segments(held.model, units, bucket_elements) : std::vector{units}});
  }
  return stages;
}

// Stage by stage, from the highest.
std::vector<FlatEntry> entries_of(Holdings& held) {
  std::vector<FlatEntry> entries;
  for (auto stage = held.stages.rbegin(); stage != held.stages.rend(); ++stage)
    std::ranges::copy(flat_entries(held.model, held.partition, stage->number, stage->segments, held.ties), std::back_inserter(entries));
  return entries;
}

}  // namespace

namespace {

bool some_pass(const MachineOptions& options, Teaching teaching) {
  return std::ranges::any_of(options.step_passes, [&](const std::vector<Pass>& passes) {
    return std::ranges::any_of(passes, [&](const Pass& pass) { return pass.teaching == teaching; });
  });
}

}  // namespace

bool distills(const MachineOptions& options) { return some_pass(options, Teaching::whole); }
bool has_frozen_teacher(const MachineOptions& options) { return some_pass(options, Teaching::nobody); }

ModelOptions model_options(const MachineOptions& options, const Group& tensor, const PipelinePart& heads) {
  return {.tensor = {tensor, options.sequence_parallel},
          .precision = options.precision,
          .heads = heads,
          .frozen_backbone = options.frozen_backbone,
          .given_taps = options.given_taps,
          .teaches = distills(options),
          .space = options.space};
}

Holdings::Holdings(const MachineOptions& options, const Mesh& mesh, Arena& arena)
    : rank(mesh.at.pipeline),
      ranks(mesh.degrees.pipeline),
      data_size(mesh.degrees.data),
      model(model_of(options, mesh)),
      partition(stage_partition(options, model, ranks)),
      ties(find_ties(model, partition)),
      stages(stages_of(*this, options.bucket_elements)),
      flat(arena, entries_of(*this), flat_options(options, mesh)) {
  if (has_frozen_teacher(options)) teacher.emplace(arena, model, partition, stages);
}

}  // namespace offramp
