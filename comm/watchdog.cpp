#include "comm/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "comm/host.h"
#include "comm/signals.h"

namespace offramp {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Watchdog::Watchdog(const Activity& activity, Options options) : activity_(activity), options_(std::move(options)) {
  if (!options_.end_job) options_.end_job = [] { std::_Exit(static_cast<int>(Exit::communication)); };
  timeout_s_ = options_.timeout_s;
  const SignalsBlocked blocked;
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool Watchdog::stopped_within(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return stop_; });
}

void Watchdog::watch() {
  std::uint64_t beats = activity_.beats();
  double idle = 0, timeout = timeout_s_;
  for (; timeout <= 0 || idle < timeout; timeout = timeout_s_) {
    const double tick = timeout > 0 ? std::min(1.0, timeout / 10) : 1.0;
    const auto start = Clock::now();
    if (stopped_within(tick)) return;
    // A job that was suspended and goes on was not idle meanwhile: a tick counts little more than its own length.
    idle += std::min(since(start), 2 * tick);
    if (timeout <= 0 || activity_.beats() != beats) beats = activity_.beats(), idle = 0;
  }
  report(timeout);
  if (!stopped_within(options_.grace_s)) options_.end_job();
}

// One write, so that the lines of several ranks do not mix.
void Watchdog::report(double timeout) const {
  const std::string what =
      fmt::format("no progress for {:g} s: {}; raise training.timeout_s if this is expected", timeout, activity_.text());
  const std::string line = error_line(options_.rank, Exit::communication, what) + "\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace offramp
