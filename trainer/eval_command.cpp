#include "trainer/eval_command.h"

#include <omp.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/check_tensors.h"
#include "checkpoint/state.h"
#include "checkpoint/subnet_json.h"
#include "checkpoint/subnet_source.h"
#include "data/tokenizer.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/evaluate_samples.h"
#include "trainer/frozen_base.h"
#include "trainer/job.h"
#include "trainer/resume.h"
#include "trainer/sound_checkpoint.h"
#include "trainer/subnets.h"
#include "trainer/terminal.h"

namespace offramp {
namespace {

// What a saved model says of itself.
Config config_of(const BaseModel& base) {
  if (const Checkpoint* checkpoint = base.checkpoint()) return model_of(checkpoint->manifest());
  Config config;
  config.model = base.model(), config.exits = base.exits();
  return config;
}

Space space_of(const BaseModel& base, const Config& config) {
  return subnets_of(base.checkpoint() ? base.checkpoint()->manifest().supernet : Space{}, config);
}

// A saved model, opened, and the subnet of it that is looked at as a job that could train it.
struct EvalModel {
  EvalModel(const std::string& directory, const EvalArguments& arguments) : base(directory), config(config_of(base.model())) {
    subnet = arguments.subnet.empty() ? Subnet{} : parse_subnet(arguments.subnet);
    check_tensors(base, config.model, config.exits, base.model().directory());
    check_subnet(subnet, space_of(base.model(), config), config.model);
    weights.emplace(base, config.model, config.exits, subnet);
    config.model = weights->config(), config.exits = weights->exits();
    for (ExitSpec& exit : config.exits) exit.target = Target::labels;
    set_samples(arguments);
  }

  void set_samples(const EvalArguments& arguments) {
    TrainingConfig& training = config.training;
    const std::int64_t longest = config.model.max_position_embeddings;
    if (arguments.sequence_length > 0) training.sequence_length = arguments.sequence_length;
    if (training.sequence_length == 0) training.sequence_length = longest;
    if (training.sequence_length > longest)
      fail(Exit::configuration, "--sequence-length {}: the model takes {} tokens at most", training.sequence_length, longest);
    if (training.micro_batch_size == 0) training.micro_batch_size = 1;
  }

  // Of a machine that only evaluates: a microbatch at a time.
  MachineOptions options(const Degrees& degrees) const {
    Config job = config;
    job.training.global_batch_size = job.training.micro_batch_size * degrees.data;
    MachineOptions options = machine_options(job, degrees);
    options.optimizer_state.clear();
    return options;
  }

  BaseWeights base;
  Config config;  // of the subnet
  Subnet subnet;
  std::optional<SubnetSource> weights;
};

Dataset open_data(const EvalArguments& arguments, const Config& config, Activity& activity) {
  DatasetOptions options;
  options.corpora = {{arguments.data, 1.0}};
  options.sequence_length = config.training.sequence_length;
  options.vocab_size = config.model.vocab_size;
  options.shuffle = false;
  options.alive = [&activity] { activity.beat(); };
  const auto tokenizer = config.data.document_mask ? tokenizer_beside(arguments.data) : std::nullopt;
  if (tokenizer) options.end_token = load_tokenizer(*tokenizer)->end_token();
  return Dataset(options);
}

struct EvalResult {
  std::string directory;
  std::int64_t sequence_length = 0, samples = 0, tokens = 0;
  std::vector<ExitResult> heads;  // the final one last
};

// From the sums of each head (kLossSums in tensor/ops.h).
std::vector<ExitResult> results_of(Machine& machine) {
  std::vector<ExitResult> results;
  const double* s = machine.sums().as<double>();
  for (const Head& head : machine.model().heads) {
    const bool last = results.size() + 1 == machine.model().heads.size();
    const int layer = last ? static_cast<int>(machine.options().model.num_hidden_layers) : head.spec().layer;
    const double counted = std::max(1.0, s[3]);
    results.push_back({last ? "final" : "exit", layer, name_of(last ? HeadKind::norm : head.spec().head), s[0] / counted, s[2] / counted});
    s += kLossSums;
  }
  return results;
}

// Perplexities of large losses are beyond JSON's numbers: null.
nlohmann::ordered_json perplexity(double loss) {
  const double value = std::exp(loss);
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::string json_of(const EvalArguments& arguments, const Subnet& subnet, const EvalResult& result) {
  nlohmann::ordered_json json = {{"checkpoint", result.directory}, {"subnet", nlohmann::ordered_json::parse(to_text(subnet))},
                                 {"data", arguments.data},         {"sequence_length", result.sequence_length},
                                 {"samples", result.samples},      {"tokens", result.tokens}};
  const ExitResult& final = result.heads.back();
  json["final_loss"] = final.loss, json["final_perplexity"] = perplexity(final.loss), json["final_accuracy"] = final.accuracy;
  for (const char* key : {"exit_losses", "exit_perplexities", "exit_accuracies"}) json[key] = nlohmann::ordered_json::object();
  for (const ExitResult& exit : std::span(result.heads).first(result.heads.size() - 1)) {
    const std::string layer = std::to_string(exit.layer);
    json["exit_losses"][layer] = exit.loss, json["exit_perplexities"][layer] = perplexity(exit.loss);
    json["exit_accuracies"][layer] = exit.accuracy;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string table_of(const EvalArguments& arguments, const Subnet& subnet, const EvalResult& result) {
  const std::string of = subnet == Subnet{} ? "" : fmt::format(", subnet {}", to_text(subnet));
  return fmt::format("{}{}\n{} samples of {} tokens of {}\n{}", result.directory, of, result.samples, result.sequence_length,
                     arguments.data, results_table(result.heads));
}

// The step that a directory of checkpoints stands for; a Hugging Face directory is itself.
std::string agreed_directory(const std::string& path, const Group& world, Activity& activity) {
  Context ctx;
  ctx.activity = &activity;
  std::vector<std::string> notes;
  bool checkpoints = true;
  agreed(world, activity, "looking for a model", [&] { checkpoints = !is_hugging_face(path); });
  if (!checkpoints) return path;
  return newest_sound(ctx, world, activity, path, notes).value_or(path);  // which says that nothing is there when it is opened
}

std::unique_ptr<Machine> loaded_machine(EvalModel& model, const std::string& directory, const Group& world, Activity& activity) {
  const Degrees degrees{.tensor = 1, .pipeline = 1, .data = world.size()};
  const MachineOptions options = model.options(degrees);
  MemoryPlan plan;
  agreed(world, activity, "planning memory", [&] { plan = plan_memory(options, Mesh::planned(world.rank(), degrees)); });
  check_host_memory(world, activity, plan.peak + plan.messages);
  activity.begin("splitting the world");
  const Mesh mesh(world, degrees);
  std::unique_ptr<Machine> machine;
  agreed(world, activity, "loading the model", [&] {
    machine = std::make_unique<Machine>(
        options, mesh, Backing::host, plan.peak, [world] { world.progress(); }, &activity);
    load_weights(*machine, *model.weights, directory);
  });
  machine->share_values();
  return machine;
}

}  // namespace

std::string run_eval_command(const EvalArguments& arguments, const Group& world, Activity& activity) {
  agreed(world, activity, "reading the command", [&] {
    if (!arguments.subnet.empty()) parse_subnet(arguments.subnet);
  });
  const std::string directory = agreed_directory(arguments.checkpoint, world, activity);
  std::optional<EvalModel> model;
  std::optional<Dataset> data;
  agreed(world, activity, "opening the model", [&] { model.emplace(directory, arguments); });
  agreed(world, activity, "opening data", [&] { data.emplace(open_data(arguments, model->config, activity)); });
  omp_set_num_threads(model->config.training.threads);
  const auto machine = loaded_machine(*model, directory, world, activity);
  EvalResult result{directory, model->config.training.sequence_length, std::min(arguments.samples, data->samples_per_epoch())};
  evaluate_samples(*machine, *data, result.samples, "evaluation", activity);
  result.heads = results_of(*machine);
  result.tokens = static_cast<std::int64_t>(machine->sums().as<double>()[3]);  // of any head: all count the same
  return arguments.json ? json_of(arguments, model->subnet, result) : table_of(arguments, model->subnet, result);
}

}  // namespace offramp
