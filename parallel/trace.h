// Trace: what one rank did, and when: its actions one after the other, and the sums of gradients that travelled meanwhile.
#pragma once
#include "parallel/simulate.h"

namespace offramp {

struct TraceEvent {
  std::string name;           // an action's text: "B7.1@0"
  int lane = 0;               // 0: what the rank did; above: sums under way, a lane a bucket
  double begin = 0, end = 0;  // seconds of this host's steady clock
  std::int64_t bytes = 0;     // of a sum
  double waited = 0;          // of the seconds between begin and end, those in which it waited for a message
};
using Trace = std::vector<TraceEvent>;

// Of the gradient bytes that travelled, the share that was on its way before the last backward (or exit) of the trace ended.
double share_in_flight(const Trace& trace);

// The events of one rank as members of a Chrome trace's "traceEvents", each with a comma before it.
std::string trace_events(const Trace& trace, int rank);
// The whole file, for chrome://tracing or ui.perfetto.dev, of the events of any number of ranks.
std::string chrome_trace(std::string_view events);

// What a simulated rank does, as if it had been measured: lane 0 its own work, above what travels meanwhile.
Trace trace_of(const Timeline& timeline, int rank);
std::string timeline_chrome_trace(const Timeline& timeline);  // of all pipeline ranks

}  // namespace offramp
