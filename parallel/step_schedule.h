// What a job's options make of a step: its layout, and how its schedule is to be built. Of every rank the same.
#pragma once
#include "parallel/generators.h"
#include "parallel/holdings.h"

namespace offramp {

// Whether weight gradients are actions of their own.
bool splits_backward(const MachineOptions& options);

// passes: empty for one of the whole model.
Layout step_layout(const MachineOptions& options, Holdings& held, int microbatches, bool backward, const std::vector<Pass>& passes = {});
ScheduleOptions step_schedule(const MachineOptions& options, Holdings& held, const Layout& layout, const std::vector<Pass>& passes = {});

}  // namespace offramp
