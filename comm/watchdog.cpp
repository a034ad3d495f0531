#include "comm/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>

#include "tensor/check.h"

namespace offramp {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

}  // namespace

Watchdog::Watchdog(const Activity& activity, Options options) : activity_(activity), options_(std::move(options)) {
  if (!options_.end_job) options_.end_job = [] { std::_Exit(static_cast<int>(Exit::communication)); };
  if (options_.timeout_s > 0) thread_ = std::thread([this] { watch(); });
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
  const double tick = std::min(1.0, options_.timeout_s / 10);
  std::uint64_t beats = activity_.beats();
  double idle = 0;
  while (idle < options_.timeout_s) {
    const auto start = Clock::now();
    if (stopped_within(tick)) return;
    // A job that was suspended and goes on was not idle meanwhile: a tick counts little more than its own length.
    idle += std::min(since(start), 2 * tick);
    if (activity_.beats() != beats) beats = activity_.beats(), idle = 0;
  }
  report();
  if (!stopped_within(options_.grace_s)) options_.end_job();
}

// One write, so that the lines of several ranks do not mix.
void Watchdog::report() const {
  const std::string line = fmt::format("offramp: rank {} on {}: no progress for {:g} s: {}; raise training.timeout_s if this is expected\n",
                                       options_.rank, host_name(), options_.timeout_s, activity_.text());
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace offramp
