// Times in, timeline out: what a schedule costs in seconds and in slabs, before anything runs.
#pragma once
#include <array>
#include <functional>

#include "parallel/schedule.h"

namespace offramp {

using Times = std::function<double(const Action&)>;  // seconds; of a send: time on the wire, during which its rank goes on
struct Span {
  Action action;
  int rank = 0;
  double begin = 0, end = 0;
};
struct Timeline {
  std::vector<Span> spans;
  double seconds = 0;
  std::vector<double> busy;  // per rank
};
// Throws like validate() when the schedule cannot run to its end.
Timeline simulate(const Schedule& schedule, const Layout& layout, const Times& times);

// Per rank and kind of slab, the most that live at once. Follows from the program's order alone.
using SlabCounts = std::array<int, kHolds>;
SlabCounts peak_slabs(const Program& program, const Layout& layout);
std::vector<SlabCounts> peak_slabs(const Schedule& schedule, const Layout& layout);

}  // namespace offramp
