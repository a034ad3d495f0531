// A small job that goes wrong in a chosen way; job_ends.sh looks at how it ends.
#include <fmt/format.h>

#include <csignal>
#include <string>

#include "comm/host.h"
#include "comm/mpi.h"
#include "comm/watchdog.h"

namespace offramp {
namespace {

constexpr int kGuilty = 1;

void sum_over(Context& ctx, const Group& world) {
  double one = 1;
  all_reduce(ctx, Tensor(&one, {1}, DType::f64), world).wait(ctx);
  OFFRAMP_CHECK(one == world.size(), "the sum of {} ones is {}", world.size(), one);
}

void go_wrong(const std::string& way, const Group& world) {
  if (way == "agrees" || way == "alone" || world.rank() != kGuilty) return;
  if (way == "throws") fail(Exit::numerical, "step 3: the loss is NaN; lower optimizer.lr");
  if (way == "dies") raise(SIGKILL);
  if (way == "stops") raise(SIGSTOP);
}

int run(const std::string& way, const Group& world) {
  Activity activity;
  Context ctx;
  ctx.activity = &activity;
  const Watchdog watchdog(activity, {.timeout_s = 1, .rank = world.rank(), .grace_s = 1});
  activity.begin("step 2");
  sum_over(ctx, world);
  activity.begin("step 3");
  go_wrong(way, world);
  if (way == "agrees") {
    std::optional<Error> mine;
    if (world.rank() > 0) mine.emplace(Exit::data, fmt::format("rank {} cannot read its data", world.rank()));
    agree(ctx, world, mine);
  }
  sum_over(ctx, world);
  fmt::print("{} ranks are done\n", world.size());
  return 0;
}

int run_guarded(const std::string& way, const MpiSession& mpi) {
  try {
    return run(way, mpi.world());
  } catch (const AgreedError& error) {
    if (mpi.world().rank() == 0) fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error_line(mpi.world().rank(), error.code, error.what()));
    abort_job(static_cast<int>(error.code));
  }
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  const offramp::MpiSession mpi(argc, argv);
  return offramp::run_guarded(argc > 1 ? argv[1] : "", mpi);
}
