// Speed of all_reduce, reduce_scatter and all_gather over all ranks, beside MPI's own:  mpirun -np 4 bench_all_reduce [KiB...]
// `waited`: the operation alone, waited for at once; the fastest repetition and the median one, each the slowest rank's time.
// `polled`: it moves only where all ranks call for progress, once each and then again, as they do between units of computation;
// the number is how many calls it needs, which is what overlap costs where a backward is short of them.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "comm/mpi.h"

namespace offramp {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Lets ranks of one host go on together without a call into MPI, which would make progress.
class Lockstep {
 public:
  Lockstep() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
    MPI_Win_allocate_shared(rank == 0 ? sizeof(State) : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &state_, &window_);
    MPI_Aint bytes = 0;
    int unit = 0;
    MPI_Win_shared_query(window_, 0, &bytes, &unit, &state_);
    if (rank == 0) new (state_) State;
    MPI_Barrier(MPI_COMM_WORLD);
  }
  ~Lockstep() { MPI_Win_free(&window_); }
  Lockstep(const Lockstep&) = delete;
  Lockstep& operator=(const Lockstep&) = delete;
  // Whether all ranks came with `done`.
  bool all(bool done) {
    state_->done += done;
    meet();
    const bool every = state_->done == ranks_;
    meet();
    state_->done = 0;
    meet();
    return every;
  }

 private:
  struct State {
    std::atomic<int> arrived = 0, done = 0;
  };
  void meet() {
    ++state_->arrived;
    for (++met_; state_->arrived < met_ * ranks_;) sched_yield();
  }

  MPI_Win window_ = MPI_WIN_NULL;
  State* state_ = nullptr;
  int ranks_ = 1, met_ = 0;
};

struct Times {
  double best, median;
};

struct Bench {
  Group world;
  Context ctx;
  Lockstep& lockstep;
  std::vector<float> values = {}, part = {};  // the whole and one rank's part of it

  Tensor whole() { return {values.data(), {static_cast<std::int64_t>(values.size())}, DType::f32}; }
  Tensor own() { return {part.data(), {static_cast<std::int64_t>(part.size())}, DType::f32}; }
  // The same memory as twice as many.
  static Tensor halved(Tensor x) { return {x.data, {2 * x.elements()}, DType::bf16}; }

  template <class F>
  Times time_of(F work) {
    std::vector<double> times;
    for (int repeat = 0; repeat < 25; ++repeat) {
      std::fill(values.begin(), values.end(), 1.0f);
      MPI_Barrier(MPI_COMM_WORLD);
      const double start = seconds();
      work();
      double mine = seconds() - start, slowest = 0;
      MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      times.push_back(slowest);
    }
    std::sort(times.begin(), times.end());
    return {times.front(), times[times.size() / 2]};
  }

  template <class Start>
  int polls(Start start) {
    Work work = start();
    int count = 0;
    for (lockstep.all(false); !lockstep.all(work.done());) ++count;
    return count;
  }

  template <class Start, class Theirs>
  void line(const char* name, Start start, Theirs theirs) {
    const Times ours = time_of([&] { start().wait(ctx); }), of_mpi = time_of(theirs);
    const int times = polls(start);
    if (world.rank() == 0)
      fmt::print("{} ranks {:6} KiB {:14}   waited {:8.3f} ms (median {:8.3f})   MPI's {:8.3f} ({:8.3f})   polled {:3} times\n",
                 world.size(), whole().bytes() >> 10, name, 1e3 * ours.best, 1e3 * ours.median, 1e3 * of_mpi.best, 1e3 * of_mpi.median,
                 times);
  }

  void measure(std::size_t bytes) {
    const auto ranks = static_cast<std::size_t>(world.size());
    part.resize(bytes / sizeof(float) / ranks);
    values.resize(part.size() * ranks);
    const int n = static_cast<int>(values.size()), one = static_cast<int>(part.size());
    line(
        "all_reduce", [&] { return all_reduce(ctx, whole(), world); },
        [&] { MPI_Allreduce(MPI_IN_PLACE, values.data(), n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
    line(
        "reduce_scatter", [&] { return reduce_scatter(ctx, own(), whole(), world); },
        [&] { MPI_Reduce_scatter_block(values.data(), part.data(), one, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
    line(
        "all_gather", [&] { return all_gather(ctx, whole(), own(), world); },
        [&] { MPI_Allgather(part.data(), one, MPI_FLOAT, values.data(), one, MPI_FLOAT, MPI_COMM_WORLD); });
    line(
        "of bf16", [&] { return reduce_scatter(ctx, halved(own()), halved(whole()), world); }, [] {});
  }
};

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  const offramp::MpiSession mpi(argc, argv);
  if (mpi.world().size() == 1) {
    fmt::print(stderr, "start it under mpirun with 2 ranks or more\n");
    return 1;
  }
  offramp::Lockstep lockstep;
  offramp::Bench bench{mpi.world(), {}, lockstep};
  std::vector<std::size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::stoul(argv[i]));
  if (sizes.empty()) sizes = {4, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10};
  for (const std::size_t kib : sizes) bench.measure(kib << 10);
}
