#include "trainer/opened_model.h"

#include "checkpoint/check_tensors.h"
#include "checkpoint/state.h"
#include "data/tokenizer.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/job.h"
#include "trainer/resume.h"
#include "trainer/sound_checkpoint.h"
#include "trainer/subnets.h"

namespace offramp {
namespace {

// What a saved model says of itself.
Config config_of(const BaseModel& base) {
  if (const Checkpoint* checkpoint = base.checkpoint()) return model_of(checkpoint->manifest());
  Config config;
  config.model = base.model(), config.exits = base.exits();
  return config;
}

Degrees replicas_of(int ranks) { return {.tensor = 1, .pipeline = 1, .data = ranks}; }

void settle_samples(Config& config, std::int64_t sequence_length) {
  TrainingConfig& training = config.training;
  const std::int64_t longest = config.model.max_position_embeddings;
  if (sequence_length > 0) training.sequence_length = sequence_length;
  if (training.sequence_length == 0) training.sequence_length = longest;
  if (training.sequence_length > longest)
    fail(Exit::configuration, "--sequence-length {}: the model takes {} tokens at most", training.sequence_length, longest);
  if (training.micro_batch_size == 0) training.micro_batch_size = 1;
}

}  // namespace

std::string agreed_model(const std::string& path, const Group& world, Activity& activity) {
  Context ctx;
  ctx.activity = &activity;
  std::vector<std::string> notes;
  bool checkpoints = true;
  agreed(world, activity, "looking for a model", [&] { checkpoints = !is_hugging_face(path); });
  if (!checkpoints) return path;
  return newest_sound(ctx, world, activity, path, notes).value_or(path);  // which says that nothing is there when it is opened
}

OpenedModel::OpenedModel(const std::string& directory, std::int64_t sequence_length)
    : weights(directory), config(config_of(weights.model())) {
  const Checkpoint* checkpoint = weights.model().checkpoint();
  space = subnets_of(checkpoint ? checkpoint->manifest().supernet : Space{}, config);
  check_tensors(weights, config.model, config.exits, weights.model().directory());
  for (ExitSpec& exit : config.exits) exit.target = Target::labels;
  settle_samples(config, sequence_length);
}

Dataset open_samples(const std::string& prefix, const Config& config, Activity& activity) {
  DatasetOptions options;
  options.corpora = {{prefix, 1.0}};
  options.sequence_length = config.training.sequence_length;
  options.vocab_size = config.model.vocab_size;
  options.shuffle = false;
  options.alive = [&activity] { activity.beat(); };
  const auto tokenizer = config.data.document_mask ? tokenizer_beside(prefix) : std::nullopt;
  if (tokenizer) options.end_token = load_tokenizer(*tokenizer)->end_token();
  return Dataset(options);
}

MachineOptions evaluation_options(const Config& config, int replicas) {
  Config job = config;
  job.training.global_batch_size = job.training.micro_batch_size * replicas;
  MachineOptions options = machine_options(job, replicas_of(replicas));
  options.optimizer_state.clear();
  return options;
}

std::unique_ptr<Machine> loaded_machine(const MachineOptions& options, TensorSource& weights, const std::string& directory,
                                        const Group& world, Activity& activity) {
  const Degrees degrees = replicas_of(world.size());
  MemoryPlan plan;
  agreed(world, activity, "planning memory", [&] { plan = plan_memory(options, Mesh::planned(world.rank(), degrees)); });
  check_host_memory(world, activity, plan.peak + plan.messages);
  activity.begin("splitting the world");
  const Mesh mesh(world, degrees);
  std::unique_ptr<Machine> machine;
  agreed(world, activity, "loading the model", [&] {
    machine = std::make_unique<Machine>(
        options, mesh, Backing::host, plan.peak, [world] { world.progress(); }, &activity);
    load_weights(*machine, weights, directory);
  });
  machine->share_values();
  return machine;
}

}  // namespace offramp
