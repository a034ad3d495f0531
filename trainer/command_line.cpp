#include "trainer/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <sstream>

#include "tensor/check.h"
#include "trainer/schema.h"

namespace offramp {
namespace {

constexpr const char* kSubnetType = "'{\"num_hidden_layers\": 4}'";

CLI::App* add_train(CLI::App& app, TrainArguments& to) {
  CLI::App* train = app.add_subcommand("train", "Train the model that a configuration describes; under mpirun or srun on many ranks");
  train->add_option("config", to.config, "The job's YAML file (docs/configuration.md)")->type_name("CONFIG.yaml");
  train->add_option("--set", to.sets, "Override one key: --set training.steps=20, --set exits.0.layer=3; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one a --set: what follows it is the configuration
  train->add_option("--resume", to.resume, "Go on from a checkpoint; auto: from the newest of checkpoint.directory, or from the start")
      ->type_name("auto|CHECKPOINT");
  CLI::Option* dry = train->add_flag("--dry-run", to.dry_run, "Check everything and print what each rank will take, without training");
  train->add_option("--ranks", to.ranks, "Ranks of the dry run")->type_name("N")->check(CLI::Range(1, 1000000))->needs(dry);
  train->add_flag("--print-config", to.print_config, "Print the whole effective configuration as YAML and end");
  train->add_flag("--config-reference", to.config_reference, "Print the reference of all keys as Markdown and end");
  return train;
}

CLI::App* add_plan(CLI::App& app, PlanArguments& to) {
  CLI::App* plan = app.add_subcommand("plan", "Say what a job will take before it is started: memory, messages and time of every rank");
  plan->add_option("config", to.config, "The job's YAML file; its data is not opened")->type_name("CONFIG.yaml")->required();
  plan->add_option("--set", to.sets, "Override one key, as of train; may be repeated")->type_name("KEY=VALUE")->allow_extra_args(false);
  plan->add_option("--ranks", to.ranks, "Ranks to plan for; as few as the configuration allows if not given")
      ->type_name("N")
      ->check(CLI::Range(1, 1000000));
  plan->add_option("--cluster", to.cluster, "A cluster file (configs/clusters/), or measured: this machine; h100.yaml if not given")
      ->type_name("FILE|measured");
  CLI::Option* json = plan->add_flag("--json", to.json, "Print one JSON object");
  CLI::Option* search = plan->add_flag("--search", to.search, "Compare all layouts of so many ranks")->excludes(json);
  plan->add_flag("--dump-schedule", to.dump_schedule, "Print the schedule, a line a pipeline rank, and nothing else")
      ->excludes(json)
      ->excludes(search);
  plan->add_option("--svg", to.svg, "Write the step's timeline as a picture")->type_name("FILE.svg")->excludes(search);
  plan->add_option("--trace", to.trace, "Write the step's timeline as a Chrome trace")->type_name("FILE.json")->excludes(search);
  plan->add_option("--compare", to.compare, "Put the plan beside a trace that logging.profile_steps wrote")
      ->type_name("TRACE.json")
      ->excludes(json)
      ->excludes(search);
  return plan;
}

CLI::App* add_tokenizer(CLI::App& app, TrainTokenizerOptions& to) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Tokenizers");
  tokenizer->require_subcommand(1);
  CLI::App* train = tokenizer->add_subcommand("train", "Train a SentencePiece BPE tokenizer on text files");
  train->add_option("--input", to.inputs, "Text files, and directories of them")->type_name("PATH...")->required()->expected(1, -1);
  train->add_option("--vocab-size", to.vocab_size, "Tokens of the vocabulary")->type_name("N")->required()->check(CLI::PositiveNumber);
  train->add_option("--output", to.output, "The model to write")->type_name("FILE.model")->required();
  return train;
}

CLI::App* add_data(CLI::App& app, BuildOptions& to) {
  CLI::App* data = app.add_subcommand("data", "Training data");
  data->require_subcommand(1);
  CLI::App* build = data->add_subcommand("build", "Turn text files into PREFIX_train.{bin,idx} and PREFIX_valid.{bin,idx}");
  build->add_option("--input", to.inputs, "Text files, and directories of them; a file is a document")
      ->type_name("PATH...")
      ->required()
      ->expected(1, -1);
  build->add_option("--tokenizer", to.tokenizer, "bytes, a SentencePiece model, a tokenizer.json, or a directory with one of them")
      ->type_name("bytes|FILE.model|tokenizer.json|DIR")
      ->required();
  build->add_option("--output", to.output, "Prefix of the files to write")->type_name("PREFIX")->required();
  build->add_option("--validation-fraction", to.validation_fraction, "Part of the documents set aside for validation")
      ->type_name("F")
      ->capture_default_str();
  return build;
}

void add_checkpoint(CLI::App& app, CheckpointArguments& to) {
  using Verb = CheckpointArguments::Verb;
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "Look at checkpoints, and make others of them");
  checkpoint->require_subcommand(1);
  const auto add = [&](const char* name, Verb verb, const char* what, int least, int most) {
    CLI::App* command = checkpoint->add_subcommand(name, what);
    command->callback([&to, verb] { to.verb = verb; });
    command->add_option("checkpoints", to.inputs, "A step's directory, or a directory of them")
        ->type_name("CHECKPOINT...")
        ->required()
        ->expected(least, most);
    return command;
  };
  add("ls", Verb::ls, "List steps, sizes and the layouts that wrote them", 1, -1);
  add("verify", Verb::verify, "Read every byte and compare checksums", 1, -1);
  add("diff", Verb::diff, "Compare the tensors of two", 2, 2);
  CLI::App* reshard = add("reshard", Verb::reshard, "Write the same state in another number of files", 1, 1);
  reshard->add_option("--files", to.files, "Files to divide it into")->type_name("N")->check(CLI::Range(1, 100000))->capture_default_str();
  CLI::App* average = add("average", Verb::average, "Write the mean of the weights of some", 1, -1);
  average->add_option("--last", to.last, "Only so many of the newest")->type_name("K")->check(CLI::PositiveNumber);
  CLI::App* merge = add("merge", Verb::merge, "Put exits that were tuned apart onto one frozen backbone into one checkpoint", 2, -1);
  for (CLI::App* command : {reshard, average, merge})
    command->add_option("--output", to.output, "Directory to put step-N into")->type_name("DIR")->required();
}

void add_conversions(CLI::App& app, ConvertArguments& to) {
  using Verb = ConvertArguments::Verb;
  CLI::App* import = app.add_subcommand("import", "Make a checkpoint of a model's files, to start from or to export");
  CLI::App* outward = app.add_subcommand("export", "Write a checkpoint's model as others read it");
  const auto add = [&](CLI::App* parent, const char* name, Verb verb, const char* what, const char* from, const char* into) {
    parent->require_subcommand(1);
    CLI::App* command = parent->add_subcommand(name, what);
    command->callback([&to, verb] { to.verb = verb; });
    command->add_option("from", to.from, "What to read")->type_name(from)->required();
    command->add_option("to", to.to, "What to write")->type_name(into)->required();
    return command;
  };
  add(import, "hf", Verb::import_hf, "From a Hugging Face directory", "DIR", "CHECKPOINT");
  add(import, "gguf", Verb::import_gguf, "From a GGUF file", "FILE", "CHECKPOINT");
  CLI::App* hf = add(outward, "hf", Verb::export_hf, "As a Hugging Face directory, its exits beside it", "CHECKPOINT", "DIR");
  CLI::App* draft = add(outward, "draft", Verb::export_draft, "One exit as a stock model of its own", "CHECKPOINT", "DIR");
  CLI::App* gguf = add(outward, "gguf", Verb::export_gguf, "As a GGUF file for llama.cpp", "CHECKPOINT", "FILE");
  for (CLI::App* command : {hf, draft, gguf})
    command->add_option("--dtype", to.dtype, "Of the numbers")->type_name("fp32|bf16|fp16")->capture_default_str();
  for (CLI::App* command : {hf, draft})
    command->add_option("--max-shard-size", to.max_shard, "Cut model.safetensors into files of at most so much")->type_name("5GB");
  for (CLI::App* command : {hf, gguf})
    command->add_option("--subnet", to.subnet, "Of a once-for-all model, or of one with exits: the sizes to export")
        ->type_name(kSubnetType);
  draft->add_option("--exit", to.exit, "The layer of the exit")->type_name("E")->required()->check(CLI::PositiveNumber);
  gguf->add_option("--exit", to.exit, "The layer of an exit, to write it as a model of its own")
      ->type_name("E")
      ->check(CLI::PositiveNumber)
      ->excludes("--subnet");
}

// A saved model, and samples to look at it with.
void add_looked_at(CLI::App& command, std::string& checkpoint, std::string& data, std::int64_t& samples, std::int64_t& sequence_length) {
  command.add_option("checkpoint", checkpoint, "A step's directory, a directory of them, or a Hugging Face directory")
      ->type_name("CHECKPOINT")
      ->required();
  command.add_option("--data", data, "Token files")->type_name("PREFIX")->required();
  command.add_option("--samples", samples, "Samples, from the first on; fewer where there are not as many")
      ->type_name("N")
      ->required()
      ->check(CLI::PositiveNumber);
  command.add_option("--sequence-length", sequence_length, "Tokens of a sample; those of the training if not given")
      ->type_name("S")
      ->check(CLI::PositiveNumber);
}

CLI::App* add_eval(CLI::App& app, EvalArguments& to) {
  CLI::App* eval = app.add_subcommand("eval", "Loss, perplexity and accuracy of every exit of a saved model; ranks share the samples");
  add_looked_at(*eval, to.checkpoint, to.data, to.samples, to.sequence_length);
  eval->add_option("--subnet", to.subnet, "Of a once-for-all model, or of one with exits: the sizes to look at")->type_name(kSubnetType);
  eval->add_flag("--json", to.json, "Print one JSON object");
  return eval;
}

// A limit says what is searched by.
CLI::Option* add_limit(CLI::App& search, SearchArguments& to, CostKind kind, double unit, const char* name, const char* what) {
  const auto take = [&to, kind, unit](const double& value) { to.limit = unit * value, to.by = kind; };
  const std::map<std::string, double> thousands = {{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}};
  CLI::Option* limit = search.add_option_function<double>(name, take, what)->check(CLI::PositiveNumber);
  if (kind != CostKind::latency) limit->transform(CLI::AsNumberWithUnit(thousands, CLI::AsNumberWithUnit::CASE_SENSITIVE));
  return limit->type_name(kind == CostKind::latency ? "MS" : "N[k|M|G|T]");
}

CLI::App* add_search(CLI::App& app, SearchArguments& to) {
  CLI::App* search =
      app.add_subcommand("search", "Find the subnets of a saved model that are best for what they cost; ranks share the samples");
  add_looked_at(*search, to.checkpoint, to.data, to.samples, to.sequence_length);
  search->add_option("--measure", to.measure, "Subnets to measure before evolution proposes others; where there are no more, all of them")
      ->type_name("N")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  const auto take = [&to](const std::string& name) {
    for (const CostKind kind : kCostKinds)
      if (name == name_of(kind)) to.by = kind;
  };
  CLI::Option* by = search->add_option_function<std::string>("--by", take, "What a subnet costs: what the limit is of, else flops")
                        ->type_name("flops|parameters|latency")
                        ->check(CLI::IsMember({"flops", "parameters", "latency"}).description(""));
  const std::vector<CLI::Option*> limits = {
      add_limit(*search, to, CostKind::flops, 1, "--max-flops", "FLOPs of one token's way forward at most"),
      add_limit(*search, to, CostKind::parameters, 1, "--max-parameters", "Parameters at most"),
      add_limit(*search, to, CostKind::latency, 1e-3, "--max-latency",
                "Milliseconds at most for the forward of one sample, measured here")};
  for (CLI::Option* limit : limits) {
    limit->excludes(by);
    for (CLI::Option* other : limits)
      if (other != limit) limit->excludes(other);
  }
  search->add_option("--seed", to.seed, "Of what is drawn")->type_name("N")->capture_default_str();
  search->add_option("--json", to.json, "Write all that was measured as JSON")->type_name("FILE.json");
  search->add_option("--svg", to.svg, "Write it as a picture")->type_name("FILE.svg");
  return search;
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  return names;
}

// A first word that is no command, at the top or below a command that has commands of its own.
void refuse_unknown_command(const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App* level = &app;
  for (const std::string& word : arguments) {
    const auto below = level->get_subcommands([](const CLI::App*) { return true; });
    if (below.empty() || word.starts_with("-")) return;
    const auto names = names_of(below);
    const auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end()) {
      fail(Exit::configuration, "unknown command {}: did you mean {}? There are: {}", quote(word), nearest(word, names),
           fmt::join(names, ", "));
    }
    level = below[static_cast<std::size_t>(found - names.begin())];
  }
}

const CLI::App& deepest(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : deepest(*parsed.front());
}

// "; did you mean --set?" after an option that does not exist.
std::string option_hint(const CLI::App& app) {
  const CLI::App& command = deepest(app);
  const auto rest = app.remaining(true);
  if (rest.empty() || !rest.front().starts_with("-")) return "";
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_lnames().empty()) names.push_back("--" + option->get_lnames().front());
  }
  const std::string word = rest.front().substr(0, rest.front().find('='));
  return names.empty() ? "" : fmt::format("; did you mean {}?", nearest(word, names));
}

std::string command_name(const CLI::App& app) {
  return app.get_parent() ? command_name(*app.get_parent()) + " " + app.get_name() : app.get_name();
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  CLI::App app("Offramp trains language models with early exits, in pipeline and data parallel.", "offramp");
  app.set_version_flag("--version", std::string("offramp ") + kVersion);
  app.require_subcommand(1);
  const CLI::App* train = add_train(app, line.train);
  const CLI::App* plan = add_plan(app, line.plan);
  const CLI::App* tokenizer = add_tokenizer(app, line.tokenizer);
  const CLI::App* build = add_data(app, line.data);
  add_checkpoint(app, line.checkpoint);
  add_conversions(app, line.convert);
  const CLI::App* eval = add_eval(app, line.eval);
  const CLI::App* search = add_search(app, line.search);
  refuse_unknown_command(app, arguments);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // the library takes them from the back
  } catch (const CLI::Success& request) {                                       // --help, --version
    std::ostringstream text, ignored;
    app.exit(request, text, ignored);
    line.text = text.str();
    return line;
  } catch (const CLI::ParseError& error) {
    fail(Exit::configuration, "{}{}; see {} --help", error.what(), option_hint(app), command_name(deepest(app)));
  }
  if (train->parsed()) line.verb = CommandLine::Verb::train;
  if (plan->parsed()) line.verb = CommandLine::Verb::plan;
  if (tokenizer->parsed()) line.verb = CommandLine::Verb::train_tokenizer;
  if (build->parsed()) line.verb = CommandLine::Verb::build_data;
  if (app.got_subcommand("import") || app.got_subcommand("export")) line.verb = CommandLine::Verb::convert;
  if (eval->parsed()) line.verb = CommandLine::Verb::eval;
  if (search->parsed()) line.verb = CommandLine::Verb::search;
  if (app.got_subcommand("checkpoint")) line.verb = CommandLine::Verb::checkpoint;
  if (line.verb == CommandLine::Verb::train && line.train.config.empty() && !line.train.config_reference) {
    fail(Exit::configuration, "CONFIG.yaml is missing; see offramp train --help");
  }
  return line;
}

}  // namespace offramp
