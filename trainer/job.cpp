#include "trainer/job.h"

#include <filesystem>

#include "checkpoint/input_file.h"
#include "optim/exit_loss.h"
#include "optim/possible_steps.h"
#include "optim/update.h"
#include "parallel/partition.h"
#include "tensor/check.h"
#include "trainer/passes.h"

namespace offramp {
namespace {

std::shared_ptr<const ScheduleFile> read_schedule(const std::string& schedule) {
  constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 28;
  if (!schedule.starts_with(kScheduleFile)) return nullptr;
  const std::string path = schedule.substr(kScheduleFile.size());
  std::string text;
  if (std::error_code ignored; !std::filesystem::exists(path, ignored))
    fail(Exit::configuration, "parallel.schedule: {}: no such file; `offramp plan CONFIG --dump-schedule` prints one", path);
  try {
    text = read_file(path, kMostBytes);
  } catch (const Error& error) {
    fail(Exit::configuration, "parallel.schedule: {}", error.what());
  }
  return std::make_shared<const ScheduleFile>(parse_schedule_file(path, text));
}

// With a frozen backbone there is nothing to order: forwards, and exits after them.
void set_schedule(const ParallelConfig& parallel, MachineOptions& options) {
  if (options.frozen_backbone) {
    options.schedule = "exits_only";
    return;
  }
  options.schedule = parallel.schedule;
  options.schedule_file = read_schedule(options.schedule);
  options.exit_placement = parallel.exit_placement;
  options.in_flight = parallel.in_flight.text;
  options.recompute = parallel.recompute;
}

}  // namespace

Degrees degrees_of(const Config& config, int world_size) {
  Degrees degrees;
  degrees.tensor = config.parallel.tensor_parallel_size;
  degrees.pipeline = config.parallel.pipeline_parallel_size;
  degrees.data =
      config.parallel.data_parallel_size > 0 ? config.parallel.data_parallel_size : world_size / (degrees.tensor * degrees.pipeline);
  if (degrees.world() != world_size)
    fail(Exit::configuration,
         "the job has {} ranks, but tensor_parallel_size {} x pipeline_parallel_size {} x data_parallel_size {} is {}: start {} ranks or "
         "change them",
         world_size, degrees.tensor, degrees.pipeline, degrees.data, degrees.world(), degrees.world());
  return degrees;
}

MachineOptions machine_options(const Config& config, const Degrees& degrees) {
  MachineOptions options;
  options.model = config.model;
  options.exits = config.exits;
  options.layers_per_stage = config.parallel.partition.layers;
  options.frozen_backbone = config.frozen_backbone();
  options.given_taps = config.caches_features();
  options.virtual_stages = options.frozen_backbone ? 1 : config.parallel.virtual_stages;
  const PartitionOptions stages{.stages = degrees.pipeline * options.virtual_stages,
                                .stages_per_rank = options.virtual_stages,
                                .sequence_length = config.training.sequence_length,
                                .split_heads = config.parallel.shard_heads_over_pipeline,
                                .frozen_backbone = options.frozen_backbone};
  if (options.layers_per_stage.empty()) options.layers_per_stage = choose_layers(config.model, config.exits, stages);
  set_schedule(config.parallel, options);
  options.memory_limit = static_cast<std::size_t>(config.parallel.memory_limit);
  options.split_heads = config.parallel.shard_heads_over_pipeline;
  options.fill_bubbles = config.parallel.fill_bubbles == "warmup"     ? Fill::warmup
                         : config.parallel.fill_bubbles == "cooldown" ? Fill::cooldown
                                                                      : Fill::none;
  options.micro_batch_size = config.training.micro_batch_size;
  options.sequence_length = config.training.sequence_length;
  options.microbatches = static_cast<int>(config.microbatches(degrees.data));
  options.document_mask = config.data.document_mask;
  options.optimizer_state = optimizer_state(config.optimizer);
  options.precision = config.training.precision == "bf16" ? DType::bf16 : DType::f32;
  options.sequence_parallel = config.parallel.sequence_parallel;
  options.shard_state = config.parallel.zero_stage == 1;
  options.layer_drop = config.layerskip.enabled;
  options.space = config.supernet.space;
  if (config.supernet.enabled) {
    PossibleSteps possible = possible_steps(config.supernet, config.model);
    options.step_passes = std::move(possible.shapes), options.pass_kinds = std::move(possible.kinds);
  }
  for (const NamedSubnet& named : validated_subnets(config)) options.evaluated.push_back(named.subnet);
  options.temperature = config.supernet.temperature;
  options.label_weight = config.supernet.label_weight;
  options.snapshot = !config.checkpoint.directory.empty();
  options.seed = config.training.seed;
  return options;
}

Config training_layout(const Config& config) {
  if (!config.caches_features()) return config;
  Config replicas = config;
  replicas.parallel = {};
  replicas.parallel.zero_stage = config.parallel.zero_stage;
  return replicas;
}

// Nothing learns, and each tap is whole on some rank.
MachineOptions feature_options(const Config& config, const Degrees& degrees) {
  MachineOptions options = machine_options(config, degrees);
  options.given_taps = options.split_heads = options.sequence_parallel = options.shard_state = options.snapshot = false;
  options.memory_limit = 0;
  options.optimizer_state.clear();
  return options;
}

double exit_weight(const Config& config, std::size_t e, std::int64_t t) {
  if (config.layerskip.enabled) {
    std::vector<int> layers;
    for (const ExitSpec& exit : config.exits) layers.push_back(exit.layer);
    return layerskip_weights(config.layerskip, {config.model.num_hidden_layers, config.training.steps}, layers, t - 1).at(e);
  }
  if (e >= config.exits.size()) return 1.0;
  return config.exits[e].loss_weight *
         exit_loss_scale(config.exit_loss.schedule, config.exit_loss.start_scale, config.exit_loss.warmup_steps, t);
}

std::string exit_label(const Config& config, std::size_t e) {
  if (e >= config.exits.size()) return "final";
  return fmt::format("exit {} ({})", config.exits[e].layer, name_of(config.exits[e].head));
}

}  // namespace offramp
