#include "trainer/commands.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "trainer/plan_command.h"
#include "trainer/schema.h"
#include "trainer/trainer.h"
#include "trainer/yaml.h"

namespace offramp {
namespace {

// The first of the variables that holds a number.
int from_environment(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value && *value >= '0' && *value <= '9') return std::atoi(value);
  }
  return otherwise;
}

// A reader that stops reading, such as `head`, is no error.
void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

void dry_run_alone(const TrainArguments& arguments) {
  const LocatedConfig located = read_located_config(arguments.config, arguments.sets);
  const ParallelConfig& p = located.config.parallel;
  const auto least = static_cast<int>(p.ranks_per_replica() * std::max(p.data_parallel_size, 1));
  const int launched = launched_size();
  const int ranks = arguments.ranks > 0 ? arguments.ranks : launched > 1 ? launched : least;
  check_world(located, ranks);
  dry_run(located.config, ranks);
}

}  // namespace

int launched_rank() { return from_environment({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}, 0); }
int launched_size() { return from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1); }

bool works_alone(const CommandLine& line) {
  const TrainArguments& t = line.train;
  if (line.verb == CommandLine::Verb::eval || line.verb == CommandLine::Verb::search) return false;
  return line.verb != CommandLine::Verb::train || t.dry_run || t.print_config || t.config_reference;
}

void run_alone(const CommandLine& line) {
  switch (line.verb) {
    case CommandLine::Verb::print:
      return print(line.text);
    case CommandLine::Verb::plan:
      return print(run_plan_command(line.plan));
    case CommandLine::Verb::train_tokenizer:
      return print(describe(train_tokenizer(line.tokenizer)) + "\n");
    case CommandLine::Verb::build_data:
      return print(describe(build_data(line.data)) + "\n");
    case CommandLine::Verb::checkpoint:
      return print(run_checkpoint_command(line.checkpoint));
    case CommandLine::Verb::convert:
      return print(run_convert_command(line.convert));
    case CommandLine::Verb::train:
    case CommandLine::Verb::eval:
    case CommandLine::Verb::search:
      break;
  }
  if (line.train.config_reference) return print(configuration_reference());
  if (line.train.print_config) return print(print_config(read_config(line.train.config, line.train.sets)));
  dry_run_alone(line.train);
}

void run_training(const TrainArguments& arguments, const Group& world, Activity& activity, Watchdog& watchdog,
                  const Preemption& preemption) {
  activity.begin("reading the configuration");
  LocatedConfig located;
  std::optional<Error> mine;
  try {
    located = read_located_config(arguments.config, arguments.sets);
    check_world(located, world.size());
  } catch (const Error& error) {
    mine = error;
  }
  Context ctx;
  ctx.activity = &activity;
  agree(ctx, world, mine);
  watchdog.set_timeout(located.config.training.timeout_s);
  train(located.config, arguments.resume, world, activity, preemption);
}

void run_evaluation(const EvalArguments& arguments, const Group& world, Activity& activity) {
  const std::string text = run_eval_command(arguments, world, activity);
  if (world.rank() == 0) print(text);
}

void run_search(const SearchArguments& arguments, const Group& world, Activity& activity) {
  const SearchResult found = run_search_command(arguments, world, activity);
  if (world.rank() == 0) print(search_table(found));
}

}  // namespace offramp
