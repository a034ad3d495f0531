// SignalsBlocked: threads that are started while one of these lives take no signals, so that the rank's first thread does and none
// of ours is interrupted in a write. What a thread does itself, a bad address for instance, still ends the process.
//
//   const SignalsBlocked blocked;
//   thread_ = std::thread(...);
#pragma once
#include <csignal>

namespace offramp {

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, own);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace offramp
