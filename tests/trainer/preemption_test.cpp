// Signals, each in a process of its own.
#include "trainer/preemption.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>

#include "comm/signals.h"

namespace offramp {
namespace {

constexpr int kOne = 0, kNoRequest = 10;

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// The exit code of a process that does this, or 128 + the signal that ended it.
int status_of(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) std::_Exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int asked(const Preemption& preemption) { return preemption.requested() ? kOne : kNoRequest; }

TEST(Preemption, ASignalAsks) {
  EXPECT_EQ(status_of([] { return asked(Preemption()); }), kNoRequest);
  EXPECT_EQ(status_of([] {
              const Preemption preemption;
              std::raise(SIGUSR1);
              return asked(preemption);
            }),
            kOne);
}

TEST(Preemption, ASecondSignalStopsAtOnce) {
  EXPECT_EQ(status_of([] {
              const Preemption preemption;
              std::raise(SIGUSR1);
              sleep_for(0.15);
              std::raise(SIGUSR1);
              return asked(preemption);
            }),
            128 + SIGUSR1);
}

TEST(Preemption, TheSameRequestMayComeTwice) {
  EXPECT_EQ(status_of([] {
              const Preemption preemption;
              std::raise(SIGUSR1);
              std::raise(SIGUSR1);
              return asked(preemption);
            }),
            kOne);
}

int terminated(const char* variable, const char* other = nullptr) {
  return status_of([=] {
    for (const char* name : {"SLURM_PROCID", "OMPI_COMM_WORLD_RANK"}) ::unsetenv(name);
    for (const char* name : {variable, other})
      if (name) ::setenv(name, "0", 1);
    const Preemption preemption;
    std::raise(SIGTERM);
    return asked(preemption);
  });
}

TEST(Preemption, TermAsksUnderSrunOnly) {
  EXPECT_EQ(terminated("SLURM_PROCID"), kOne);
  EXPECT_EQ(terminated("OMPI_COMM_WORLD_RANK"), 128 + SIGTERM);
  EXPECT_EQ(terminated("SLURM_PROCID", "OMPI_COMM_WORLD_RANK"), 128 + SIGTERM);
  EXPECT_EQ(terminated(nullptr), 128 + SIGTERM);
}

TEST(Preemption, AnotherSignalIsTheSecondToo) {
  EXPECT_EQ(status_of([] {
              ::unsetenv("OMPI_COMM_WORLD_RANK");
              ::setenv("SLURM_PROCID", "0", 1);
              const Preemption preemption;
              std::raise(SIGUSR1);
              sleep_for(0.15);
              std::raise(SIGTERM);
              return asked(preemption);
            }),
            128 + SIGTERM);
}

TEST(Preemption, WhatWasThereComesBack) {
  EXPECT_EQ(status_of([] {
              { const Preemption preemption; }
              std::raise(SIGUSR1);
              return 0;
            }),
            128 + SIGUSR1);
}

TEST(Preemption, HearsWhatAParentHadBlocked) {
  EXPECT_EQ(status_of([] {
              const SignalsBlocked blocked;
              const Preemption preemption;
              ::kill(::getpid(), SIGUSR1);
              return asked(preemption);
            }),
            kOne);
}

// The first thread alone takes it, and its system call goes on; the other's is not interrupted.
TEST(Preemption, InterruptsNoWrite) {
  EXPECT_EQ(status_of([] {
              const Preemption preemption;
              int ends[2];
              if (::pipe(ends) != 0) return 2;
              const pid_t self = ::getpid();
              std::thread other;
              {
                const SignalsBlocked blocked;
                other = std::thread([&] {
                  sleep_for(0.2);
                  ::kill(self, SIGUSR1);
                  sleep_for(0.2);
                  [[maybe_unused]] const auto written = ::write(ends[1], "x", 1);
                });
              }
              char c = 0;
              const auto n = ::read(ends[0], &c, 1);
              other.join();
              return n == 1 ? asked(preemption) : 3;
            }),
            kOne);
}

TEST(SignalsBlocked, AreOpenAgainAfterwards) {
  sigset_t before, during, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    const SignalsBlocked blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &during);
  }
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_TRUE(sigismember(&during, SIGUSR1) == 1 && sigismember(&during, SIGTERM) == 1);
  EXPECT_EQ(sigismember(&during, SIGSEGV), 0);
  EXPECT_EQ(sigismember(&after, SIGUSR1), sigismember(&before, SIGUSR1));
}

}  // namespace
}  // namespace offramp
