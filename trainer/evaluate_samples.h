// The losses of every head over samples in order, without training: what validation and `offramp eval` share.
#pragma once
#include "data/dataset.h"
#include "models/subnet.h"
#include "parallel/machine.h"

namespace offramp {

// Machine::statistics() = those of samples 0 .. samples of `data` in Machine::sums() and nothing else, on every rank alike; of a subnet
// (MachineOptions::evaluated) those of its last exit. Collective: data ranks share the samples, a microbatch each at a time. `name`: what
// ranks say that they are doing.
void evaluate_samples(Machine& machine, const Dataset& data, std::int64_t samples, const std::string& name, Activity& activity,
                      const Subnet& subnet = {});

}  // namespace offramp
