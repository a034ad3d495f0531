// A job's steps as passes (optim/step_plan.h): from its configuration to what each step trains.
#pragma once
#include <string>
#include <vector>

#include "trainer/config.h"

namespace offramp {

StepPasses step_passes(const Config& config, std::int64_t t);
// Subnets that validation looks at, beside the whole: the smallest, and the one of the middle choices.
struct NamedSubnet {
  std::string name;
  Subnet subnet;
};
std::vector<NamedSubnet> validated_subnets(const Config& config);
// The weight of exit `e` in the loss of a pass: that of the whole's own exits, or of the head that a subnet ends with the pass's.
double pass_weight(const Config& config, const Pass& pass, std::size_t e, std::int64_t t);

}  // namespace offramp
