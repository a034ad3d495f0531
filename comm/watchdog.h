// Watchdog: a thread that watches this rank's Activity, and ends a job that stands still. When no sign of life came for
// timeout_s seconds it prints one line with what the rank was doing, waits grace_s so that the other ranks can print theirs,
// and calls end_job. The rule: end_job runs on the watchdog's thread while the rank's own thread is stuck, so it must neither
// communicate nor unwind; the default is _Exit with the code for communication, upon which the launcher ends the other ranks.
//
//   Activity activity;
//   Watchdog watchdog(activity, {.timeout_s = 300, .rank = world.rank()});   // stops at the end of the scope
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "tensor/activity.h"

namespace offramp {

class Watchdog {
 public:
  struct Options {
    double timeout_s = 0;  // zero or less: no watching
    int rank = 0;
    double grace_s = 2;
    std::function<void()> end_job = {};  // default: _Exit(7)
  };
  Watchdog(const Activity& activity, Options options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // From now on, on any thread: a limit becomes known only when the configuration is read. Noticed within a second.
  void set_timeout(double seconds) { timeout_s_ = seconds; }

 private:
  bool stopped_within(double seconds);
  void watch();
  void report(double timeout) const;

  const Activity& activity_;
  Options options_;
  std::atomic<double> timeout_s_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace offramp
