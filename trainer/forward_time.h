// How long a subnet takes as the model of its own that its export is: what a search measures as latency.
//
//   const double seconds = forward_seconds(config, {.num_hidden_layers = 4}, activity);
#pragma once
#include "models/subnet.h"
#include "tensor/context.h"
#include "trainer/config.h"

namespace offramp {

// Of the forward over one sample of config.training.sequence_length, to the final head's loss, on this rank alone and on
// training.threads threads: the median of some. The model is made anew, and its weights are 0, which no time depends on. Throws
// Error(Exit::memory) where there is no room for it.
double forward_seconds(const Config& config, const Subnet& subnet, Activity& activity);

}  // namespace offramp
