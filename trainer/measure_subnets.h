// Subnets of a saved model, measured: for a search, which asks for some and then for others.
#pragma once
#include <span>

#include "trainer/opened_model.h"
#include "trainer/search_result.h"

namespace offramp {

struct Measuring {
  OpenedModel& model;
  const Dataset& data;
  std::int64_t samples = 0;
  std::string directory;  // of the model, for messages
  const Group& world;
  Activity& activity;
};

// Collective, and the same on every rank. Losses and accuracies of the last head of each, as slices of one machine that holds the whole.
// Throws AgreedError: Exit::memory, and Exit::numerical for losses that are not finite.
void measure_losses(std::span<MeasuredSubnet> subnets, const Measuring& by);
// Collective: those of rank 0, whatever the other ranks' processors do meanwhile.
void measure_latencies(std::span<MeasuredSubnet> subnets, const Measuring& by);

}  // namespace offramp
