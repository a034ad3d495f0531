// RunLock: at most one job at a time writes into a run's directories. Each holds a file, run.lock, that says who writes: host, run,
// the processes of all ranks, and a number that grows every second. Whoever comes second waits while the first lives:
//   - one of its processes that ran on this machine still does (the ranks of a killed mpirun go on for a second), or
//   - it has processes on other machines, and the number grows: seen from here, by this clock, within the last silent_s seconds.
// A dead owner's lock is taken over, by exactly one of those that wait (lock_file.h).
//
//   std::unique_ptr<RunLock> lock = lock_run(ctx, world, {config.logging.directory, config.checkpoint.directory}, run_id);
//   if (lock) lock->check();      // on rank 0, before every save: that it still is ours
//
// The rule: it is held before anything is written or removed there, and let go after the last write. It alone does not keep a rank
// from writing: rank 0 holds it for all.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/group.h"
#include "trainer/lock_file.h"
#include "trainer/process.h"

namespace offramp {

struct LockOwner {
  std::string host, run, since;
  std::vector<Process> processes;  // the first is rank 0's
};
std::string lock_text(const LockOwner& owner, std::int64_t beat);
std::optional<LockOwner> read_lock_text(const std::string& text);  // nothing: torn, or of somebody else

// Whether the owner of a lock lives, from what the file says each time that somebody looks.
class LockWatch {
 public:
  using Clock = std::chrono::steady_clock;
  explicit LockWatch(double silent_s) : silent_s_(silent_s) {}
  bool lives(const std::string& text, Clock::time_point now);

 private:
  double silent_s_;
  std::string seen_;
  Clock::time_point changed_{};
};

class RunLock {
 public:
  struct Options {
    double wait_s = 30, silent_s = 10, beat_s = 1;
    LockFile::Options file = {};
  };
  // Directories are made where they are missing; empty names, and other names of the same directory, count for nothing.
  RunLock(const std::vector<std::string>& directories, LockOwner owner, Options options);
  ~RunLock();  // gives them back
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // Takes what can be taken now; true when all is held, from when on a thread tells that the owner lives. To be called again
  // after a moment otherwise. Throws Error(Exit::checkpoint), naming the owner, when that has gone on for wait_s.
  bool try_lock();
  void lock();  // tries until it holds all
  // For whom it waits: "process 12 on node7 (run ab12, since ...)"; empty: for nobody.
  const std::string& waits_for() const { return waits_for_; }
  // Throws Error(Exit::checkpoint) once another job has taken the lock, because this one stood still for so long.
  void check() const;

 private:
  struct Part {
    LockFile file;
    LockWatch watch;
    std::string text;   // as we wrote it last; empty: not held
    std::string tried;  // as we may have written it besides, had that not failed
  };
  bool take(Part& part);
  void beat();
  void keep();

  LockOwner owner_;
  Options options_;
  std::vector<Part> parts_;
  std::optional<LockWatch::Clock::time_point> began_;
  std::string waits_for_;
  std::int64_t beat_ = 0;
  std::atomic<const Part*> lost_{nullptr};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

// Collective. The lock on rank 0, nothing on the others, which wait meanwhile in short steps that their watchdogs hear of. An
// error is agreed on.
std::unique_ptr<RunLock> lock_run(Context& ctx, const Group& world, const std::vector<std::string>& directories, const std::string& run,
                                  RunLock::Options options = {});

}  // namespace offramp
