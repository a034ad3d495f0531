// What a step's passes are and weigh, what happens to the model before them, and what their sums say.
#include <fmt/ranges.h>

#include <algorithm>

#include "checkpoint/sort_channels.h"
#include "trainer/passes.h"
#include "trainer/trainer.h"

namespace offramp {

// What was saved before is in the old order, what is saved after it in the new one: a run that resumes from either goes on alike.
void Trainer::sort_channels(std::int64_t t) {
  if (!config_.supernet.enabled || !step_passes(config_, t).sorts) return;
  activity_.begin(fmt::format("before step {}, channels in order of importance", t));
  const std::vector<std::string> axes = offramp::sort_channels(*machine_);
  if (log_ && !axes.empty()) log_->note(fmt::format("before step {}: sorted by importance: {}", t, fmt::join(axes, ", ")));
}

// In the new order, if channels were just sorted. It stays in its own: whatever it is compared with, it says the same of a token.
void Trainer::take_teacher(std::int64_t t) {
  if (!config_.supernet.enabled || !step_passes(config_, t).takes_teacher) return;
  activity_.begin(fmt::format("before step {}, a copy of the model to teach", t));
  machine_->teacher()->take(machine_->context(), machine_->flat(), mesh_.pipeline);
  if (log_) log_->note(fmt::format("before step {}: subnets learn from the whole as it is now", t));
}

void Trainer::set_passes(std::int64_t t) {
  if (config_.supernet.enabled) machine_->set_passes(step_passes(config_, t).passes);
}

void Trainer::set_scales(std::int64_t t, std::span<const double> counted) {
  const FillWeights weights = fill_weights(machine_->options().fill_bubbles, machine_->layout(), counted);
  for (std::size_t p = 0; p < machine_->passes().size(); ++p) {
    const auto scales = machine_->exit_scale(p);
    for (std::size_t e = 0; e < scales.size(); ++e) {
      const double weight = pass_weight(config_, machine_->passes()[p], e, t);
      *scales[e].as<float>() = weights.exits[e] > 0 ? static_cast<float>(weight / weights.exits[e]) : 0.0f;
    }
  }
  if (const Tensor all = machine_->gradient_scale(); all.defined())
    *all.as<float>() = static_cast<float>(weights.gradients[static_cast<std::size_t>(mesh_.at.pipeline)]);
}

void Trainer::read_losses(std::int64_t t, const std::vector<Pass>& passes, Outcome& outcome) const {
  for (std::size_t p = 0; p < passes.size(); ++p) {
    if (passes[p] == kTeacherPass) continue;
    if (passes[p].subnet == Subnet{})
      read_whole(t, passes[p], p, outcome);
    else
      read_subnet(passes[p], p, outcome);
  }
}

// From the sums of each exit (kLossSums in tensor/ops.h).
void Trainer::read_whole(std::int64_t t, const Pass& pass, std::size_t number, Outcome& outcome) const {
  const double* sums = machine_->sums(number).as<double>();
  const bool compared = pass.teaching == Teaching::frozen || (config_.frozen_backbone() && machine_->model().final);
  for (std::size_t e = 0; e < machine_->model().heads.size(); ++e) {
    const double* s = sums + e * kLossSums;
    const double counted = std::max(1.0, s[3]);
    outcome.exit_losses.push_back(s[0] / counted);
    outcome.accuracies.push_back(s[2] / counted);
    if (compared) outcome.acceptances.push_back(s[4] / counted), outcome.agreements.push_back(s[5] / counted);
    outcome.tokens = std::max(outcome.tokens, static_cast<std::int64_t>(s[3]));
    outcome.loss += pass_weight(config_, pass, e, t) * s[1] / counted;
  }
}

void Trainer::read_subnet(const Pass& pass, std::size_t number, Outcome& outcome) const {
  const std::size_t head = last_head(pass.subnet, machine_->model());
  const double* s = machine_->sums(number).as<double>() + head * kLossSums;
  const double counted = std::max(1.0, s[3]);
  SubnetResult result{.subnet = to_text(pass.subnet), .weight = pass.weight, .loss = s[0] / counted, .accuracy = s[2] / counted};
  if (pass.teaching != Teaching::labels) result.acceptance = s[4] / counted, result.agreement = s[5] / counted;
  outcome.subnets.push_back(result);
  outcome.tokens = std::max(outcome.tokens, static_cast<std::int64_t>(s[3]));
  outcome.loss += pass.weight * s[1] / counted;
}

// A frozen backbone ends before the final head, and a step may train subnets alone.
std::optional<double> Trainer::of_final_head(const std::vector<double>& of_exits) const {
  if (of_exits.size() <= config_.exits.size()) return std::nullopt;
  return of_exits.back();
}

ByLayer Trainer::by_layer(const std::vector<double>& of_exits) const {
  ByLayer values;
  for (std::size_t e = 0; e < std::min(config_.exits.size(), of_exits.size()); ++e)
    values.emplace_back(config_.exits[e].layer, of_exits[e]);
  return values;
}

}  // namespace offramp
