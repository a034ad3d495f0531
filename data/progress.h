// A progress bar on standard error while it is a terminal; silent otherwise, where the caller's last line is enough.
//
//   Progress progress("data build", total_bytes);
//   progress.advance(bytes);                         // as often as one likes: it redraws ten times a second
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace offramp {

class Progress {
 public:
  Progress(std::string title, std::int64_t total);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void advance(std::int64_t amount);

 private:
  using Clock = std::chrono::steady_clock;
  std::string title_;
  std::int64_t total_, done_ = 0;
  bool terminal_;
  Clock::time_point started_ = Clock::now(), drawn_{};
};

}  // namespace offramp
