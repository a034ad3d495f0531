#include "parallel/trace.h"

#include <fmt/format.h>

#include <algorithm>

#include "parallel/actions.h"
#include "parallel/kind.h"

namespace offramp {
namespace {

// What makes gradients, so that a sum beside it costs nothing.
bool is_late(Kind kind) { return kind == Kind::backward || kind == Kind::weight_gradient || kind == Kind::exit; }

// Lanes above the buckets', one a kind of message: each wire carries one after the other.
constexpr int kWireLane = 1000;

int lane_of(const Action& action, double seconds) {
  if (action.op == Op::ReduceGradients) return 1 + action.index;
  return is_message(action.op) && seconds > 0 ? kWireLane + static_cast<int>(action.op) : 0;
}

}  // namespace

double share_in_flight(const Trace& trace) {
  double computed = 0, early = 0, all = 0;
  for (const TraceEvent& e : trace)
    if (e.lane == 0 && is_late(kind_of(e.name))) computed = std::max(computed, e.end);
  for (const TraceEvent& e : trace) {
    if (e.lane == 0) continue;
    all += static_cast<double>(e.bytes);
    if (e.begin < computed) early += static_cast<double>(e.bytes);
  }
  return all > 0 ? early / all : 1;
}

std::string trace_events(const Trace& trace, int rank) {
  std::string text = fmt::format(R"(,{{"name":"process_name","ph":"M","pid":{0},"args":{{"name":"rank {0}"}}}})", rank);
  for (const TraceEvent& e : trace) {
    const Kind kind = kind_of(e.name);
    text += fmt::format(R"(,{{"name":"{}","cat":"{}","cname":"{}","ph":"X","pid":{},"tid":{},"ts":{:.1f},"dur":{:.1f})", e.name,
                        name_of(kind), chrome_of(kind), rank, e.lane, 1e6 * e.begin, 1e6 * std::max(0.0, e.end - e.begin));
    if (e.bytes > 0) text += fmt::format(R"(,"args":{{"bytes":{}}})", e.bytes);
    if (e.waited > 0) text += fmt::format(R"(,"args":{{"waited":{:.1f}}})", 1e6 * e.waited);
    text += '}';
  }
  return text;
}

std::string chrome_trace(std::string_view events) {
  return fmt::format("{{\"traceEvents\":[{}]}}\n", events.empty() ? events : events.substr(1));
}

Trace trace_of(const Timeline& timeline, int rank) {
  Trace trace;
  for (const Span& span : timeline.spans) {
    if (span.rank == rank) trace.push_back({to_text(span.action), lane_of(span.action, span.end - span.begin), span.begin, span.end});
  }
  return trace;
}

std::string timeline_chrome_trace(const Timeline& timeline) {
  std::string events;
  for (int rank = 0; rank < static_cast<int>(timeline.busy.size()); ++rank) events += trace_events(trace_of(timeline, rank), rank);
  return chrome_trace(events);
}

}  // namespace offramp
