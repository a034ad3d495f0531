// Trace: what one rank did, and when: its actions one after the other, and the sums of gradients that travelled meanwhile.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace offramp {

struct TraceEvent {
  std::string name;           // an action's text: "B7.1@0"
  int lane = 0;               // 0: what the rank did; above: sums under way, a lane a bucket
  double begin = 0, end = 0;  // seconds of this host's steady clock
  std::int64_t bytes = 0;     // of a sum
};
using Trace = std::vector<TraceEvent>;

// Of the gradient bytes that travelled, the share that was on its way before the last backward (or exit) of the trace ended.
double share_in_flight(const Trace& trace);

}  // namespace offramp
