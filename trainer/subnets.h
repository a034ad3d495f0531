// The subnets that a saved model has: those of the space that its manifest names, or, of a model without one, its exits.
//
//   const Space space = subnets_of(manifest.supernet, config);
//   check_subnet(subnet, space, config.model);               // what a user asks for
//   text += describe_space(space, config);                   // for people
#pragma once
#include <string>

#include "models/subnet.h"
#include "trainer/config.h"

namespace offramp {

// Throws Error(Exit::checkpoint) where the saved space is another model's.
Space subnets_of(const Space& saved, const Config& config);
// Throws Error(Exit::configuration), with the choices.
void check_subnet(const Subnet& subnet, const Space& space, const ModelConfig& model);

// What a subnet costs as a model of its own: elements of all parameters, and FLOPs of one token's way forward, with the scores of a
// sequence of config.training.sequence_length, or of the longest without one.
struct SubnetCost {
  double parameters = 0, flops = 0;
};
SubnetCost cost_of(const Subnet& subnet, const Config& config);

// Each axis with its choices, how many subnets there are, and what the smallest and the largest cost.
std::string describe_space(const Space& space, const Config& config);

}  // namespace offramp
