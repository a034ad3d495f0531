// Preemption: a signal asks for the end of the job: the step is finished, the state saved, and the exit code is Exit::preempted.
// SIGUSR1 always asks (mpirun hands it to its ranks); SIGTERM where srun started this process. Open MPI's mpirun instead ends its
// ranks when it gets a SIGTERM, so under mpirun, and alone, that stays what it was. A second signal stops this process at once, as
// if there were no handler; launchers and batch systems that deliver one request twice do so within a moment, which counts once.
//
//   const Preemption preemption;                             // in main, before other threads start
//   statistics.preempted = preemption.requested();           // any rank may have got it: all hear of it in the step's reduction
//   if (sum > 0) { save(); throw AgreedError(Exit::preempted, ...); }
//
// One at a time: handlers belong to the process.
#pragma once
#include <csignal>
#include <vector>

namespace offramp {

class Preemption {
 public:
  Preemption();
  ~Preemption();  // puts back what was there
  Preemption(const Preemption&) = delete;
  Preemption& operator=(const Preemption&) = delete;

  bool requested() const;  // any thread

 private:
  struct Replaced {
    int signal;
    struct sigaction before;
  };
  std::vector<Replaced> replaced_;
};

}  // namespace offramp
