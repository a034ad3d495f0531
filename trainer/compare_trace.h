// A plan beside what was measured: the simulated timeline of a step, and the trace that logging.profile_steps wrote.
//
//   const Measured measured = read_trace("runs/trace.json", 4);
//   fmt::print("{}", comparison_text(timeline, measured));
//
// Of the ranks of a trace, one a pipeline rank is compared: the first. Which that is, the stages in its actions' names tell.
#pragma once
#include "parallel/kind.h"
#include "parallel/simulate.h"

namespace offramp {

// Seconds of a step by kind of work. Sums of gradients that travel meanwhile do not count, only the time that they take of the rank.
struct RankSeconds {
  std::array<double, kKinds.size()> of{};
  double waiting = 0;  // the rest of the step
};
struct Measured {
  double step_s = 0;               // mean over the steps of the longest rank
  std::vector<RankSeconds> ranks;  // by pipeline rank, means over the steps
  int steps = 0;
};

// Throws Error: Exit::checkpoint where the file cannot be read, Exit::configuration where it is no trace of so many pipeline ranks.
Measured read_trace(const std::string& path, int pipeline_ranks);
Measured measured_of(std::string_view json, const std::string& name, int pipeline_ranks);  // `name`: of the file, in errors

// The same of a simulated step.
Measured predicted_of(const Timeline& timeline);
// A table by rank and kind, the step time, and what the two disagree on most.
std::string comparison_text(const Timeline& timeline, const Measured& measured);

}  // namespace offramp
