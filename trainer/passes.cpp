#include "trainer/passes.h"

#include "trainer/job.h"

namespace offramp {
namespace {

PlanOf plan_of(const Config& config) {
  PlanOf of{.model = config.model, .steps = config.training.steps, .seed = config.training.seed};
  const OptimizerConfig& optimizer = config.optimizer;
  if (optimizer.name == "sgd")
    of.rate = [&](std::int64_t t) { return learning_rate(optimizer.lr_schedule, optimizer.lr, t, config.training.steps); };
  return of;
}

}  // namespace

StepPasses step_passes(const Config& config, std::int64_t t) { return step_passes(config.supernet, plan_of(config), t); }

std::vector<NamedSubnet> validated_subnets(const Config& config) {
  const Space& space = config.supernet.space;
  if (!config.supernet.enabled) return {};
  Subnet middle;
  for (const SubnetAxis& axis : subnet_axes())
    if (const auto& choices = space.*axis.choices; choices.size() > 1) middle.*axis.size = choices[(choices.size() - 1) / 2];
  std::vector<NamedSubnet> subnets{{"smallest", shortened(smallest(space), config.model)}, {"middle", shortened(middle, config.model)}};
  if (subnets[1].subnet == subnets[0].subnet) subnets.pop_back();
  return subnets;
}

double pass_weight(const Config& config, const Pass& pass, std::size_t e, std::int64_t t) {
  return pass.subnet == Subnet{} ? pass.weight * exit_weight(config, e, t) : pass.weight;
}

}  // namespace offramp
