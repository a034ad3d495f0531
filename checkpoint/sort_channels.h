// Elastic axes in order of importance, before their subnets are trained: a subnet is the first so many channels of each axis, and begins
// as the best ones of the whole (OFA, arXiv 1908.09791, section 3.3: the L1 norm of a channel's weights). The whole model computes what
// it did before, but for the order of its sums, and so does the next update, since optimizer state moves along.
//
//   const std::vector<std::string> sorted = sort_channels(machine);   // {"intermediate_size"}; on every rank, between two steps
#pragma once
#include "parallel/machine.h"

namespace offramp {

// Of the space of the machine's options; returns its axes that were sorted. Importance is summed in double over logical tensors, and so
// every layout gets the same order, and the same bits. Takes a few times Gatherer::kMost elements on rank 0, whatever the model's size,
// and sends all of the model there and back for each axis.
std::vector<std::string> sort_channels(Machine& machine);

}  // namespace offramp
