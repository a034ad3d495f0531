// How measurements of single operations are timed.
#pragma once
#include <algorithm>
#include <chrono>

namespace offramp {

inline double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Seconds of the fastest of many single runs, as many as `span` seconds hold: what else the machine does in between does not count.
template <class F>
double time_of(F work, double span = 0.3) {
  work();
  double best = 1e9;
  for (const double start = seconds(); seconds() - start < span;) {
    const double before = seconds();
    work();
    best = std::min(best, seconds() - before);
  }
  return best;
}

}  // namespace offramp
