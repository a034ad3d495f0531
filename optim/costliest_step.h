// Of all steps that a plan may have (optim/possible_steps.h), the one that costs most: what is planned where none may take longer.
//
//   const std::vector<Pass> passes = costliest_step(config.supernet, config.model, flops_of_a_pass);
#pragma once
#include "optim/possible_steps.h"

namespace offramp {

// No subnet comes twice, a sandwich has its smallest, and the deepest comes first, behind a frozen teacher. `cost`: of one pass.
std::vector<Pass> costliest_step(const SupernetConfig& supernet, const ModelConfig& model, const std::function<double(const Pass&)>& cost);

}  // namespace offramp
