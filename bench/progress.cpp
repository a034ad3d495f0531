// Who moves messages while a rank computes:  mpirun -np 2 bench_progress
// The same arithmetic, in units of 1, 5 and 20 ms, beside a sum of 16 MiB: polled between units (`tick`), moved by a thread every
// 100 us (`sleeps`) or as often as the processor is free (`yields`), or left alone until it is waited for (`nobody`). `exposed` is
// the time of the wait at the end, `slower` what the arithmetic took longer than by itself; together they are what the exchange
// costs a step. `processor` is what it takes of one, the thread included. Medians over repetitions, with quartiles, of the slowest
// rank each.
#include <fmt/format.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "comm/mpi.h"

namespace offramp {
namespace {

constexpr std::size_t kElements = std::size_t{4} << 20;  // of f32: 16 MiB
constexpr double kComputed = 0.2;                        // seconds of arithmetic
constexpr int kRepeats = 15;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Of all threads of this rank.
double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

enum class Way { alone, nobody, tick, sleeps, yields };
const char* name_of(Way way) {
  constexpr const char* kNames[] = {"alone", "nobody", "tick", "sleeps", "yields"};
  return kNames[static_cast<int>(way)];
}

// Multiply-adds over memory that fits in a cache of the second level; so many rounds last about so long.
class Arithmetic {
 public:
  Arithmetic() {
    const double start = seconds();
    run(kTrial);
    per_round_ = (seconds() - start) / kTrial;
  }
  int rounds(double duration) const { return std::max(1, static_cast<int>(duration / per_round_)); }
  void run(int rounds) {
    for (int i = 0; i < rounds; ++i)
      for (std::size_t j = 0; j < x_.size(); ++j) x_[j] = x_[j] * 0.999f + y_[j];
  }
  float result() const { return x_[7]; }

 private:
  static constexpr int kTrial = 2000;
  double per_round_ = 0;
  std::vector<float> x_ = std::vector<float>(1 << 15, 1.0f), y_ = std::vector<float>(1 << 15, 0.5f);
};

// Calls progress() until it goes away. The rank's own thread is outside MPI meanwhile, so this is a progress thread at its
// cheapest: without a lock around every call.
class Mover {
 public:
  Mover(const Group& group, bool yields)
      : thread_([this, group, yields] {
          while (!stop_) {
            group.progress();
            yields ? static_cast<void>(sched_yield()) : std::this_thread::sleep_for(std::chrono::microseconds(100));
          }
        }) {}
  ~Mover() {
    stop_ = true;
    thread_.join();
  }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

struct Sample {
  double exposed = 0, computed = 0, processor = 0;  // seconds
};

class Bench {
 public:
  explicit Bench(Group group) : world_(std::move(group)) {}

  // The ways take turns, so that what else the machine does meets all of them; each is compared with its neighbour alone.
  void measure(double unit) {
    constexpr Way kWays[] = {Way::nobody, Way::tick, Way::sleeps, Way::yields};
    std::vector<double> exposed[4], slower[4], together[4], processor[4];
    for (int repeat = 0; repeat < kRepeats; ++repeat)
      for (std::size_t w = 0; w < 4; ++w) {
        const Sample alone = once(Way::alone, unit), sample = once(kWays[w], unit);
        exposed[w].push_back(sample.exposed);
        slower[w].push_back(sample.computed - alone.computed);
        together[w].push_back(sample.exposed + sample.computed - alone.computed);
        processor[w].push_back(sample.processor - alone.processor);
      }
    for (std::size_t w = 0; w < 4 && world_.rank() == 0; ++w)
      fmt::print("{} ranks, units of {:2.0f} ms  {:7} exposed {}  slower {}  together {}  processor {} ms\n", world_.size(), 1e3 * unit,
                 name_of(kWays[w]), quartiles(exposed[w]), quartiles(slower[w]), quartiles(together[w]), quartiles(processor[w]));
  }
  float result() const { return arithmetic_.result(); }

 private:
  // By our own collectives, whose waits leave the processor to ranks that still compute: MPI's spin.
  Sample slowest(const Sample& mine) {
    std::vector<double> all(3 * static_cast<std::size_t>(world_.size()));
    double values[] = {mine.exposed, mine.computed, mine.processor};
    all_gather(ctx_, {all.data(), {3 * world_.size()}, DType::f64}, {values, {3}, DType::f64}, world_).wait(ctx_);
    Sample most;
    for (std::size_t r = 0; r < all.size(); r += 3)
      most = {std::max(most.exposed, all[r]), std::max(most.computed, all[r + 1]), std::max(most.processor, all[r + 2])};
    return most;
  }

  void compute(double unit, bool ticks) {
    const int rounds = arithmetic_.rounds(unit), units = static_cast<int>(kComputed / unit);
    for (int i = 0; i < units; ++i) {
      arithmetic_.run(rounds);
      if (ticks) world_.progress();
    }
  }

  // The thread is gone before the wait, which polls by itself: only what it moved during the arithmetic counts.
  Sample once(Way way, double unit) {
    std::fill(values_.begin(), values_.end(), 1.0f);
    (void)slowest({});  // all are here
    const double processor = processor_seconds();
    Work work;
    if (way != Way::alone) work = all_reduce(ctx_, {values_.data(), {static_cast<std::int64_t>(kElements)}, DType::f32}, world_);
    const double start = seconds();
    {
      std::optional<Mover> mover;
      if (way == Way::sleeps || way == Way::yields) mover.emplace(world_, way == Way::yields);
      compute(unit, way == Way::tick);
    }
    const double middle = seconds();
    work.wait(ctx_);
    return slowest({seconds() - middle, middle - start, processor_seconds() - processor});
  }

  static std::string quartiles(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return fmt::format("{:7.1f} ({:6.1f} to {:6.1f})", 1e3 * x[x.size() / 2], 1e3 * x[x.size() / 4], 1e3 * x[x.size() * 3 / 4]);
  }

  Group world_;
  Context ctx_;
  Arithmetic arithmetic_;
  std::vector<float> values_ = std::vector<float>(kElements);
};

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  const offramp::MpiSession mpi(argc, argv);
  if (mpi.world().size() == 1) {
    fmt::print(stderr, "start it under mpirun with 2 ranks or more\n");
    return 1;
  }
  offramp::Bench bench(mpi.world());
  for (const double unit : {1e-3, 5e-3, 20e-3}) bench.measure(unit);
  if (bench.result() == 0) fmt::print("\n");  // it is used, so it is computed
}
