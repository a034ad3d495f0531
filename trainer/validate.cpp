// Validation: every exit's loss over the first samples of each validation set, and some subnets'.
#include <algorithm>

#include "trainer/passes.h"
#include "trainer/trainer.h"

namespace offramp {

void Trainer::validate(std::int64_t t) {
  for (std::size_t i = 0; i < validation_.size(); ++i) {
    if (features_) features_->serve({.dataset = 1 + i, .end = validated_samples(config_, validation_[i].data)});
    validate(t, validation_[i]);
  }
  if (features_) features_->serve({});
}

// Sums of every exit, or of a subnet's last, over the first samples of a set, on every rank.
void Trainer::evaluate(const std::string& name, const Dataset& data, const Subnet& subnet) {
  const std::int64_t samples = validated_samples(config_, data);
  const std::int64_t wave = config_.training.micro_batch_size * mesh_.degrees.data;  // one microbatch on every data rank
  const std::int64_t most = machine_->options().microbatches;
  Loader loader(data, {config_.training.micro_batch_size, config_.training.sequence_length, mesh_.at.data, mesh_.degrees.data});
  Context& ctx = machine_->context();
  fill_zero(ctx, machine_->statistics());
  PhaseTimes times;
  for (std::int64_t first = 0; first < samples;) {
    const std::int64_t waves = std::min(most, (samples - first + wave - 1) / wave);
    activity_.begin(name + ", data");
    loader.fill(first, samples, machine_->inputs().first(static_cast<std::size_t>(waves)));
    machine_->evaluate(static_cast<int>(waves), name, times, subnet);
    first += waves * wave;
  }
  activity_.begin(name + ", statistics");
  all_reduce(ctx, machine_->statistics(), world_).wait(ctx);
}

void Trainer::validate(std::int64_t t, ValidationSet& set) {
  const std::string name = fmt::format("validation after step {}", t);
  Outcome outcome;
  evaluate(name, set.data, {});
  read_losses(std::max<std::int64_t>(t, 1), {Pass{}}, outcome);
  for (const NamedSubnet& subnet : validated_subnets(config_)) {
    evaluate(name + ", subnet " + subnet.name, set.data, subnet.subnet);
    Outcome of_subnet;
    read_subnet({.subnet = subnet.subnet}, 0, of_subnet);
    of_subnet.subnets.front().name = subnet.name;
    outcome.subnets.push_back(of_subnet.subnets.front());
  }
  if (!log_) return;
  ValidationRecord record;
  record.step = t;
  record.set = set.name;
  record.loss = outcome.loss;
  record.final_loss = of_final_head(outcome.exit_losses);
  record.final_accuracy = of_final_head(outcome.accuracies);
  record.exit_losses = by_layer(outcome.exit_losses);
  record.exit_accuracies = by_layer(outcome.accuracies);
  record.exit_acceptances = by_layer(outcome.acceptances);
  record.exit_agreements = by_layer(outcome.agreements);
  record.subnets = outcome.subnets;
  record.tokens = outcome.tokens;
  log_->validation(record);
}

}  // namespace offramp
