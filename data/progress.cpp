#include "data/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace offramp {

Progress::Progress(std::string title, std::int64_t total)
    : title_(std::move(title)), total_(std::max<std::int64_t>(total, 1)), terminal_(::isatty(2) == 1) {}

Progress::~Progress() {
  if (terminal_) std::fputs("\r\x1b[K", stderr);
}

void Progress::advance(std::int64_t amount) {
  done_ += amount;
  const auto now = Clock::now();
  if (!terminal_ || now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  const double part = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const double elapsed = std::chrono::duration<double>(now - started_).count();
  const auto filled = static_cast<std::size_t>(part * 30);
  fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {:3.0f}%  {:.1f} s left\x1b[K", title_, "", filled, "", 30 - filled, part * 100,
             part > 0 ? elapsed * (1 - part) / part : 0.0);
  std::fflush(stderr);
}

}  // namespace offramp
