#include "trainer/eval_command.h"

#include <omp.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/subnet_json.h"
#include "checkpoint/subnet_source.h"
#include "trainer/agreed.h"
#include "trainer/evaluate_samples.h"
#include "trainer/opened_model.h"
#include "trainer/subnets.h"
#include "trainer/terminal.h"

namespace offramp {
namespace {

// A subnet of a saved model as a model of its own, and the job that looks at it.
struct EvalModel {
  EvalModel(const std::string& directory, const EvalArguments& arguments) : whole(directory, arguments.sequence_length) {
    subnet = arguments.subnet.empty() ? Subnet{} : parse_subnet(arguments.subnet);
    check_subnet(subnet, whole.space, whole.config.model);
    weights.emplace(whole.weights, whole.config.model, whole.config.exits, subnet);
    config = whole.config;
    config.model = weights->config(), config.exits = weights->exits();
  }

  OpenedModel whole;
  Subnet subnet;
  std::optional<SubnetSource> weights;
  Config config;  // of the subnet
};

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

}  // namespace

std::string run_eval_command(const EvalArguments& arguments, const Group& world, Activity& activity) {
  agreed(world, activity, "reading the command", [&] {
    if (!arguments.subnet.empty()) parse_subnet(arguments.subnet);
  });
  const std::string directory = agreed_model(arguments.checkpoint, world, activity);
  std::optional<EvalModel> model;
  std::optional<Dataset> data;
  agreed(world, activity, "opening the model", [&] { model.emplace(directory, arguments); });
  agreed(world, activity, "opening data", [&] { data.emplace(open_samples(arguments.data, model->config, activity)); });
  omp_set_num_threads(model->config.training.threads);
  const MachineOptions options = evaluation_options(model->config, world.size());
  const auto machine = loaded_machine(options, *model->weights, directory, world, activity);
  EvalResult result{directory, model->config.training.sequence_length, std::min(arguments.samples, data->samples_per_epoch())};
  evaluate_samples(*machine, *data, result.samples, "evaluation", activity);
  result.heads = results_of(*machine);
  result.tokens = static_cast<std::int64_t>(machine->sums().as<double>()[3]);  // of any head: all count the same
  return arguments.json ? json_of(arguments, model->subnet, result) : table_of(arguments, model->subnet, result);
}

}  // namespace offramp
