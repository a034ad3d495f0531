// Activity: what this rank is doing right now, in words. The rank's own thread writes it, the watchdog reads it.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace offramp {

class Activity {
 public:
  // A new action began: "step 12, B3@1". Counts as progress.
  void begin(std::string action);
  // The action waits for somebody: "receive of 1048576 bytes from pipeline rank 0 (rank 2)". Empty: it goes on. Is no progress.
  void wait_for(std::string peer);
  // Sign of life inside a long action.
  void beat() { beats_.fetch_add(1, std::memory_order_relaxed); }

  std::uint64_t beats() const { return beats_.load(std::memory_order_relaxed); }
  std::string text() const;  // any thread: "step 12, F3@1, waiting for receive of ..."

 private:
  mutable std::mutex mutex_;
  std::string action_ = "starting", peer_;
  std::atomic<std::uint64_t> beats_{0};
};

}  // namespace offramp
