#include "parallel/trace.h"

#include <algorithm>

namespace offramp {

double share_in_flight(const Trace& trace) {
  double computed = 0, early = 0, all = 0;
  for (const TraceEvent& e : trace)
    if (e.lane == 0 && (e.name[0] == 'B' || e.name[0] == 'X')) computed = std::max(computed, e.end);
  for (const TraceEvent& e : trace) {
    if (e.lane == 0) continue;
    all += static_cast<double>(e.bytes);
    if (e.begin < computed) early += static_cast<double>(e.bytes);
  }
  return all > 0 ? early / all : 1;
}

}  // namespace offramp
