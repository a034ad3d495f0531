// From a configuration to what the rooms below want: pure functions.
#pragma once
#include "comm/mesh.h"
#include "parallel/machine.h"
#include "trainer/config.h"

namespace offramp {

// Throws Error(Exit::configuration) when the world does not fit the parallel sizes.
Degrees degrees_of(const Config& config, int world_size);
MachineOptions machine_options(const Config& config, const Degrees& degrees);
// The job that training is: with tuning.feature_cache all ranks are replicas, whatever `parallel` says, which is how features are made.
Config training_layout(const Config& config);
MachineOptions feature_options(const Config& config, const Degrees& degrees);  // of the backbone that makes them
// The weight of exit `e` in the loss of step t (from 1); the final head, after the exits, has 1, but for LayerSkip.
double exit_weight(const Config& config, std::size_t e, std::int64_t t);
// "exit 2 (norm)", "final": for people.
std::string exit_label(const Config& config, std::size_t e);

// FLOP/s of matrix products of this type, and bytes a second of a copy in memory, on this rank's threads while others measure too.
double measure_peak_flops(DType precision, std::int64_t size = 768);
double measure_peak_bytes();

}  // namespace offramp
