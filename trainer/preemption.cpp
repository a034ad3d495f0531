#include "trainer/preemption.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kOneRequestNs = 100'000'000;

// A handler reaches nothing but what is static. When the first signal came, on the steady clock; 0: none did.
std::atomic<std::int64_t> first_ns{0};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// Calls nothing but what a handler may.
void on_signal(int signal) {
  const int error_number = errno;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t now_ns = now.tv_sec * INT64_C(1'000'000'000) + now.tv_nsec;
  std::int64_t first = 0;
  if (!first_ns.compare_exchange_strong(first, now_ns) && now_ns - first > kOneRequestNs) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);  // delivered once this handler has returned
  }
  errno = error_number;
}

// srun's own variable; where it started mpirun's helper, which started this process, mpirun's is there too.
bool under_srun() { return std::getenv("SLURM_PROCID") && !std::getenv("OMPI_COMM_WORLD_RANK"); }

}  // namespace

Preemption::Preemption() {
  first_ns = 0;
  struct sigaction ours {};
  ours.sa_handler = on_signal;
  ours.sa_flags = SA_RESTART;  // whatever thread is interrupted, in a read or write for instance, goes on
  sigfillset(&ours.sa_mask);
  std::vector<int> signals = {SIGUSR1};
  if (under_srun()) signals.push_back(SIGTERM);
  for (const int signal : signals) {
    Replaced entry{signal, {}};
    OFFRAMP_CHECK(sigaction(signal, &ours, &entry.before) == 0, "[Preemption] no handler for signal {}: errno {}", signal, errno);
    replaced_.push_back(entry);
  }
  sigset_t open;  // a parent may have blocked them
  sigemptyset(&open);
  for (const int signal : signals) sigaddset(&open, signal);
  pthread_sigmask(SIG_UNBLOCK, &open, nullptr);
}

Preemption::~Preemption() {
  for (const Replaced& entry : replaced_) sigaction(entry.signal, &entry.before, nullptr);
}

bool Preemption::requested() const { return first_ns != 0; }

}  // namespace offramp
