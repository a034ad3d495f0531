// `offramp plan`: what a job will take, in text or as JSON; and the comparison of all layouts of a number of ranks.
#pragma once
#include <string>

#include "parallel/plan.h"
#include "trainer/command_line.h"
#include "trainer/config.h"

namespace offramp {

// A configuration on so many ranks, as plan_step() wants it, with the passes of its step; none: of the whole model.
PlannedJob planned_job(const Config& config, int ranks, const std::vector<Pass>& passes = {});
// What the command prints. Throws Error(Exit::configuration). Needs no data, no MPI and no memory worth speaking of.
std::string run_plan_command(const PlanArguments& arguments);
// `plan --search`: a table of the layouts of so many ranks, best first, and why the first one is.
std::string search_layouts(const Config& config, int ranks, const Cluster& cluster);

// For people: "12.34 GB", "5.67 ms", "3.2 TFLOP".
std::string bytes_text(double bytes);
std::string seconds_text(double seconds);
std::string flops_text(double flops);

}  // namespace offramp
