#include "trainer/planned_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "optim/costliest_step.h"
#include "trainer/job.h"
#include "trainer/passes.h"
#include "trainer/plan_command.h"

namespace offramp {
namespace {

constexpr std::int64_t kMostSteps = 1000;  // that the mean is over

// The whole job on one rank, with one microbatch: FLOPs stand to each other as on all.
MachineOptions alone(const Config& config) {
  Config serial = config;
  serial.parallel = {};
  MachineOptions options = machine_options(serial, {});
  options.microbatches = 1;
  options.evaluated.clear();
  return options;
}

double flops_of(const std::vector<Pass>& passes, Machine& machine) {
  machine.set_passes(passes);
  return machine.step_flops();
}

double mean_flops(const Config& config, std::int64_t first, Machine& machine) {
  const std::int64_t steps = config.training.steps - first + 1, looked_at = std::min(steps, kMostSteps);
  double sum = 0;
  for (std::int64_t i = 0; i < looked_at; ++i) sum += flops_of(step_passes(config, first + i * steps / looked_at).passes, machine);
  return sum / static_cast<double>(looked_at);
}

bool draws(const Config& config) { return config.supernet.enabled && possible_steps(config.supernet, config.model).kinds.size() > 1; }

bool delays(PlanKind plan) { return plan == PlanKind::deps || plan == PlanKind::ofa; }

}  // namespace

PlannedStep planned_step(const Config& config) {
  PlannedStep step{.passes = {}, .mean_share = 1, .first = delays(config.supernet.plan) ? config.supernet.start + 1 : 1};
  if (!draws(config) || step.first > config.training.steps) return step;
  Machine machine(alone(config), Mesh::planned(0, {}), Backing::none, kUnlimited);
  const std::vector<double> flops = machine.pass_flops();
  step.passes = costliest_step(config.supernet, config.model, [&](const Pass& pass) { return flops[machine.pass_kind(pass)]; });
  step.mean_share = mean_flops(config, step.first, machine) / flops_of({Pass{}}, machine);
  return step;
}

namespace {

PassName name_of(const Pass& pass, const Config& config) {
  if (pass == kTeacherPass) return {'T', fmt::format("the teacher, which is the whole after step {}", config.supernet.start)};
  if (pass.subnet == Subnet{}) return {'W', "the whole"};
  if (pass.subnet == shortened(smallest(config.supernet.space), config.model)) return {'S', "the smallest"};
  return {'r', to_text(pass.subnet)};
}

const char* teacher_of(const Pass& pass) {
  constexpr std::array<const char*, 4> kTeachers{"labels", "whole", "teacher", "nobody"};
  return kTeachers[static_cast<std::size_t>(pass.teaching)];
}

}  // namespace

std::vector<PassName> pass_names(const PlannedStep& step, const Config& config) {
  std::vector<PassName> names;
  for (const Pass& pass : step.passes) names.push_back(name_of(pass, config));
  return names;
}

std::string passes_text(const PlannedSteps& steps) {
  if (!steps.step.drawn()) return "";
  const std::string before =
      steps.step.first > 1 ? fmt::format(", from step {} on; before, each is one of the whole alone", steps.step.first) : "";
  std::string text = fmt::format("steps differ: this is the costliest{}\n", before);
  const std::vector<PassName> names = pass_names(steps.step, steps.config);
  for (std::size_t p = 0; p < names.size(); ++p)
    text +=
        fmt::format("  {}  {:<60} learns from {:<8} {:>12}  {:>5.1f} %\n", names[p].letter, names[p].text, teacher_of(steps.step.passes[p]),
                    flops_text(steps.plan.pass_flops[p]), 100 * steps.plan.pass_flops[p] / steps.plan.model_flops);
  return text + "\n";
}

std::string shares_text(const PlannedSteps& steps) {
  if (!steps.step.drawn()) return "";
  return fmt::format(
      "a step of the whole alone takes {}: this one {:.2f} times as long, of {:.2f} times the FLOPs; drawn ones have {:.2f} times on "
      "average\n",
      seconds_text(steps.whole.step_s), steps.plan.step_s / steps.whole.step_s, steps.plan.model_flops / steps.whole.model_flops,
      steps.step.mean_share);
}

nlohmann::ordered_json passes_json(const PlannedSteps& steps) {
  if (!steps.step.drawn()) return nullptr;
  nlohmann::ordered_json passes = nlohmann::ordered_json::array();
  for (std::size_t p = 0; p < steps.step.passes.size(); ++p)
    passes.push_back({{"subnet", nlohmann::ordered_json::parse(to_text(steps.step.passes[p].subnet))},
                      {"learns_from", teacher_of(steps.step.passes[p])},
                      {"flops", steps.plan.pass_flops[p]}});
  return {{"step", "costliest"},
          {"first_step", steps.step.first},
          {"passes", passes},
          {"flops", steps.plan.model_flops},
          {"whole_alone", {{"step_time_s", steps.whole.step_s}, {"flops", steps.whole.model_flops}}},
          {"flops_of_whole", steps.plan.model_flops / steps.whole.model_flops},
          {"mean_flops_of_whole", steps.step.mean_share}};
}

}  // namespace offramp
