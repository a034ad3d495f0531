// Settling: what of a job's schedule depends on every rank's memory, or on a file, decided once; all ranks decide alike.
//
//   options = settled(options, degrees);   // a Machine does it by itself, for itself alone
//
// Throws Error(Exit::configuration) where a limit of bytes is too low, with the bytes that are needed.
#pragma once
#include "parallel/machine.h"

namespace offramp {

// With known_schedule, where there is a file or a limit of bytes; otherwise as they are.
MachineOptions settled(MachineOptions options, const Degrees& degrees);

// What each pipeline rank takes, whatever the schedule.
std::vector<std::vector<RankBytes>> measure_memory(MachineOptions options, const Degrees& degrees);
// Tensor ranks that are planned apart: one, where each has as many words as the others.
int different_tensor_ranks(const MachineOptions& options, const Degrees& degrees);

}  // namespace offramp
