#include "parallel/holdings.h"

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
  const TensorParallel tensor{mesh.tensor, options.sequence_parallel};
  return build_model(options.model, options.exits, {tensor, options.precision, head_part(options, mesh)});
}

}  // namespace

Holdings::Holdings(const MachineOptions& options, const Mesh& mesh, Arena& arena)
    : stage(mesh.at.pipeline),
      data_size(mesh.degrees.data),
      model(model_of(options, mesh)),
      partition(options.layers_per_stage.empty() ? even_partition(static_cast<int>(options.model.num_hidden_layers), mesh.degrees.pipeline)
                                                 : partition_of(options.layers_per_stage)),
      ties(find_ties(model, partition)),
      segments(reduces() ? cut_segments(model, units(), options.bucket_elements) : std::vector{units()}),
      flat(arena, flat_entries(model, partition, stage, segments, ties), flat_options(options, mesh)) {}

}  // namespace offramp
