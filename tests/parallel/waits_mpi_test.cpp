// Every schedule takes the time that the simulator says, within 3 %: the real machine over MPI, whose computation is replaced by waits
// of 20 ms and more. Two cores are enough for eight ranks, if nothing else keeps them busy.
#include <gtest/gtest.h>

#include "tests/mpi_main.h"
#include "tests/parallel/small_job.h"
#include "tests/parallel/waited_step.h"

namespace offramp::testing {
namespace {

using testing_mpi::world;

constexpr double kMostAbove = 0.03;
constexpr int kTries = 6;  // waits only ever end late: one step in time is enough

struct Variant {
  std::string schedule, placement = "auto", in_flight = "1f1b", recompute = "none";
  bool first_stage = true;  // has both exits; else one is in the middle
  bool split_heads = false;
  int stages = 1;  // a rank
};

std::string text(const Variant& v) {
  return fmt::format("{:<11} | {:<15} | {:<7} | {:<9} | {:<6} | {:<5} | {}", v.schedule, v.placement, v.in_flight, v.recompute,
                     v.first_stage ? "first" : "middle", v.split_heads ? "split" : "whole", v.stages);
}

// Two layers a rank.
MachineOptions options_of(const Variant& variant) {
  const int ranks = world().size();
  MachineOptions options = small_job({{.layer = 1}, {.layer = variant.first_stage ? 2 : ranks + 1}}, false).options;
  options.model.num_hidden_layers = 2 * ranks;
  options.microbatches = ranks + 4;
  options.virtual_stages = variant.stages;
  options.schedule = variant.schedule;
  options.exit_placement = variant.placement;
  options.in_flight = variant.in_flight;
  options.recompute = variant.recompute;
  options.split_heads = variant.split_heads;
  return options;
}

// The simulated seconds.
double expect_in_time(const Variant& variant, const Lengths& lengths) {
  const std::string what = text(variant);
  testing_mpi::context().activity->begin(what);
  WaitedStep step(options_of(variant), lengths, world());
  const double simulated = step.simulated();
  double least = 1e300;
  for (int tries = 0; tries < kTries && least > (1 + kMostAbove) * simulated; ++tries) {
    testing_mpi::context().activity->begin(what);
    least = std::min(least, step.run());
  }
  if (world().rank() == 0) fmt::print("{} | {:.3f} | {:.3f} | {:.3f}\n", what, simulated, least, least / simulated);
  EXPECT_LE(least, (1 + kMostAbove) * simulated) << what;
  EXPECT_GE(least, simulated) << what << ": no wait ends early";
  return simulated;
}

void print_heading() {
  if (world().rank() == 0)
    fmt::print("schedule    | placement       | flight  | recompute | exits  | heads | stages | simulated, measured, ratio\n");
}

TEST(Waits, TakeTheTimeThatIsSimulated) {
  constexpr Lengths kLengths{.layer = 0.010, .head = 0.010};
  print_heading();
  for (const char* schedule : {"gpipe", "1f1b", "zero_bubble"})
    for (const char* placement : {"after_forward", "before_backward"})
      expect_in_time({.schedule = schedule, .placement = placement}, kLengths);
  expect_in_time({.schedule = "1f1b", .recompute = "full"}, kLengths);
  for (const char* in_flight : {"1f1b", "1f1b+1", "8"})
    expect_in_time({.schedule = "auto", .in_flight = in_flight, .first_stage = false}, kLengths);
}

// Two stages a rank, a layer each: the pipeline fills and drains in half the time. Interleaved takes whole groups of a microbatch a rank.
TEST(Waits, OfSeveralStagesARankAreShorter) {
  constexpr Lengths kLengths{.layer = 0.020, .head = 0.005};
  print_heading();
  const double one = expect_in_time({.schedule = "1f1b"}, kLengths);
  for (const char* schedule : {"interleaved", "auto"}) EXPECT_LT(expect_in_time({.schedule = schedule, .stages = 2}, kLengths), one);
  expect_in_time({.schedule = "gpipe", .stages = 2}, kLengths);
}

// Heads as long as two stages, of which every rank does its part.
TEST(Waits, OfSplitHeadsAreShorter) {
  const Lengths lengths{.layer = 0.020, .head = 0.020 * world().size()};
  print_heading();
  const double whole = expect_in_time({.schedule = "1f1b"}, lengths);
  for (const char* schedule : {"1f1b", "auto"})
    EXPECT_LT(expect_in_time({.schedule = schedule, .in_flight = "1f1b+1", .split_heads = true}, lengths), whole);
}

}  // namespace
}  // namespace offramp::testing
