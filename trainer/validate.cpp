// Validation: every exit's loss over the first samples of each validation set, and some subnets'.
#include <algorithm>

#include "trainer/evaluate_samples.h"
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

void Trainer::validate(std::int64_t t, ValidationSet& set) {
  const std::string name = fmt::format("validation after step {}", t);
  Outcome outcome;
  const std::int64_t samples = validated_samples(config_, set.data);
  evaluate_samples(*machine_, set.data, samples, name, activity_);
  read_losses(std::max<std::int64_t>(t, 1), {Pass{}}, outcome);
  for (const NamedSubnet& subnet : validated_subnets(config_)) {
    evaluate_samples(*machine_, set.data, samples, name + ", subnet " + subnet.name, activity_, subnet.subnet);
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
