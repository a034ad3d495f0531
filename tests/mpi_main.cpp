#include "mpi_main.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>

#include "comm/mpi.h"
#include "comm/watchdog.h"

namespace offramp::testing_mpi {
namespace {

struct Everything {
  Group world;
  Activity activity;
  Context context;
};
Everything& everything() {
  static Everything all;
  return all;
}

// Tells the watchdog which test runs, and prints failures of ranks other than 0.
class Listener : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& test) override {
    everything().activity.begin(fmt::format("{}.{}", test.test_suite_name(), test.name()));
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || world().rank() == 0) return;
    fmt::print(stderr, "rank {}: {}:{}: {}\n", world().rank(), result.file_name() ? result.file_name() : "?", result.line_number(),
               result.summary());
  }
};

bool failed_anywhere(bool here) {
  double failures = here;
  all_reduce(context(), Tensor(&failures, {1}, DType::f64), world()).wait(context());
  return failures > 0;
}

int run(const MpiSession& mpi) {
  Everything& all = everything();
  all.world = mpi.world();
  all.context.activity = &all.activity;
  const Watchdog watchdog(all.activity, {.timeout_s = 30, .rank = all.world.rank()});
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (all.world.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new Listener);
  const bool failed = failed_anywhere(RUN_ALL_TESTS() != 0);
  all.world = {};  // before MPI ends
  return failed;
}

}  // namespace

const Group& world() { return everything().world; }
Context& context() { return everything().context; }

}  // namespace offramp::testing_mpi

// The largest part is small, so that messages of every size below also travel in several parts.
int main(int argc, char** argv) {
  constexpr std::int64_t kLargestPart = 20'000;
  offramp::MpiSession mpi(argc, argv, kLargestPart);
  testing::InitGoogleTest(&argc, argv);
  if (mpi.world().size() == 1) {
    fmt::print(stderr, "these tests run under mpirun with 2 ranks or more\n");
    return 1;
  }
  return offramp::testing_mpi::run(mpi);
}
