// Speed of sums over all ranks, beside MPI's own:  mpirun -np 4 bench_all_reduce
// `waited`: the sum alone, waited for at once. `polled`: it moves only between units of computation of a millisecond each, as
// gradients do during a backward; the number is how many units it needs, which is what overlap costs where it is short of them.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "comm/mpi.h"

namespace offramp {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void compute(double duration) {
  for (const double start = seconds(); seconds() - start < duration;) {
  }
}

struct Bench {
  Group world;
  Context ctx;
  std::vector<float> values;

  Tensor tensor() { return {values.data(), {static_cast<std::int64_t>(values.size())}, DType::f32}; }

  // The slowest rank's time of the fastest repetition.
  template <class F>
  double time_of(F work) {
    double best = 1e9;
    for (int repeat = 0; repeat < 12; ++repeat) {
      std::fill(values.begin(), values.end(), 1.0f);
      MPI_Barrier(MPI_COMM_WORLD);
      const double start = seconds();
      work();
      double mine = seconds() - start, slowest = 0;
      MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      best = std::min(best, slowest);
    }
    return best;
  }

  int polls() {
    int count = 0;
    Work work = all_reduce(ctx, tensor(), world);
    for (; !work.done(); ++count) compute(1e-3);
    return count;
  }

  void measure(std::size_t bytes) {
    values.resize(bytes / sizeof(float));
    const double ours = time_of([&] { all_reduce(ctx, tensor(), world).wait(ctx); });
    const double theirs =
        time_of([&] { MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
    int units = 1 << 30;
    for (int repeat = 0; repeat < 5; ++repeat) {
      MPI_Barrier(MPI_COMM_WORLD);
      units = std::min(units, polls());
    }
    if (world.rank() == 0)
      fmt::print("{} ranks {:6} KiB   waited {:9.3f} ms   MPI_Allreduce {:9.3f} ms   polled {:4} units\n", world.size(), bytes >> 10,
                 1e3 * ours, 1e3 * theirs, units);
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
  offramp::Bench bench{mpi.world(), {}, {}};
  for (const std::size_t kib : {64, 1 << 10, 16 << 10, 64 << 10}) bench.measure(kib << 10);
}
