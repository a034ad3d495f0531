// Schedules of files: what is read back is what was written, what is left out is added, and what cannot be is refused where it stands.
#include "parallel/schedule_file.h"

#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using test::coin;
using test::Random;

std::string error_of(const std::string& text, const Layout& layout) {
  try {
    complete_schedule(parse_schedule_file("it.txt", text), layout, nominal_times);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    return std::string(error.what()).substr(0, std::string_view(error.what()).find('\n'));
  }
  return "accepted";
}

// A layout that has a backbone to train, and any schedule of it.
Layout trained_layout(Random& random, int trial) {
  Layout layout = test::random_layout(random, trial % 4 == 0 ? test::pick(random, 2, 4) : 0);
  layout.backward = true, layout.frozen = false;
  return layout;
}
Schedule any_schedule(const Layout& layout, Random& random) {
  return build_schedule({.name = layout.reach.empty() && coin(random) ? "gpipe" : "auto", .trials = 2}, layout);
}

// Only what computes, whole backwards: what a person would write.
Schedule stripped(const Schedule& schedule) {
  Schedule compute;
  for (const Program& program : schedule) {
    Program& kept = compute.emplace_back();
    for (Action action : program) {
      const bool passes = action.op == Op::Backward || action.op == Op::WeightGrad;
      if (is_message(action.op) || action.op == Op::ReduceTied || action.op == Op::ReduceGradients || (passes && action.index > 0))
        continue;
      if (passes) action.index = -1;
      kept.push_back(action);
    }
  }
  return compute;
}

TEST(ScheduleFile, OfAWholeStepIsTakenAsItIs) {
  Random random(5);
  for (int trial = 0; trial < 300; ++trial) {
    const Layout layout = trained_layout(random, trial);
    const Schedule schedule = any_schedule(layout, random);
    const ScheduleFile file = parse_schedule_file("", to_text(schedule));
    if (!file.has_messages()) continue;  // a lone rank's, that sums nothing: it cannot be told from one without them
    ASSERT_EQ(complete_schedule(file, layout, nominal_times), schedule);
  }
}

TEST(ScheduleFile, OfWhatComputesGetsTheRestInAnyLayout) {
  Random random(6);
  for (int trial = 0; trial < 300; ++trial) {
    const Layout layout = trained_layout(random, trial);
    const Schedule compute = stripped(any_schedule(layout, random));
    const ScheduleFile file = parse_schedule_file("", to_text(compute));
    ASSERT_FALSE(file.has_messages());
    const Schedule complete = complete_schedule(file, layout, nominal_times);
    ASSERT_NO_THROW(validate(complete, layout));
    ASSERT_EQ(stripped(complete), compute);
  }
}

TEST(ScheduleFile, SplitsBackwardsWhereItHasAW) {
  Layout layout = test::plain_layout(1, 1);
  EXPECT_FALSE(parse_schedule_file("", "F0@0 B0@0").splits_backward());
  EXPECT_TRUE(parse_schedule_file("", "F0@0 B0@0 W0@0").splits_backward());
  EXPECT_EQ(error_of("F0@0 B0@0 W0@0", layout), "it.txt:1:11: rank 0: W0@0 does not exist in this layout: backwards are not split");
  layout.split_backward = true;
  EXPECT_EQ(error_of("F0@0 B0@0 W0@0", layout), "accepted");
}

Layout two_stages() {
  Layout layout = test::plain_layout(2, 2);
  layout.exits = {{0, 1}, {1, 4}};
  return layout;
}
constexpr const char* kTwoStages =
    "F0@0 F1@0 X0.0@0 B0@0 X0.1@0 B1@0\n"
    "# the second rank\n"
    "F0@1 X1.0@1 B0@1 F1@1 X1.1@1 B1@1\n";

// kTwoStages with one piece replaced.
std::string error_with(const std::string& piece, const std::string& replacement) {
  std::string text = kTwoStages;
  const std::size_t at = text.find(piece);
  EXPECT_NE(at, std::string::npos) << piece;
  return error_of(text.replace(at, piece.size(), replacement), two_stages());
}

TEST(ScheduleFile, IsRefusedWhereItIsWrong) {
  EXPECT_EQ(error_of(kTwoStages, two_stages()), "accepted");
  EXPECT_EQ(error_with("X0.0@0", "X0.0@"),
            "it.txt:1:16: expected a number in 'X0.0@'; actions look like F2@1, X0.2@1, B7.1@0, SA2@1, Y0@0");
  EXPECT_EQ(error_with(" X1.1@1", ""), "it.txt:3:23: rank 1: X1.1@1 is missing: add it");
  EXPECT_EQ(error_with("F1@1", "F1@1 F1@1"), "it.txt:3:23: rank 1: F1@1 is there twice");
  EXPECT_EQ(error_with("F1@1", "F0@0"), "it.txt:3:18: rank 1: F0@0 belongs to rank 0");
  EXPECT_EQ(error_with("F1@1", "F1@2"),
            "it.txt:3:18: rank 1: F1@2 does not exist in this layout: the job has 2 stages (pipeline_parallel_size)");
  EXPECT_EQ(error_with("F1@1", "F2@1"),
            "it.txt:3:18: rank 1: F2@1 does not exist in this layout: the job has 2 microbatches a step, global_batch_size / "
            "(micro_batch_size x data_parallel_size)");
  EXPECT_EQ(error_with("X1.1@1", "X2.1@1"),
            "it.txt:3:23: rank 1: X2.1@1 does not exist in this layout: the job has 2 exits, of which the last is the final head");
  EXPECT_EQ(error_with("X1.1@1", "X0.1@1"), "it.txt:3:23: rank 1: X0.1@1 does not exist in this layout: this exit is on stage 0");
  EXPECT_EQ(error_with("F1@1", "R1@1"),
            "it.txt:3:18: rank 1: R1@1 does not exist in this layout: nothing is made again unless parallel.recompute is full");
  EXPECT_EQ(error_with("B1@0", "B1.0@0 B1.1@0"),
            "it.txt:1:30: rank 0: B1.0@0 does not exist in this layout: this one is not cut at 0; without messages in the file nothing is, "
            "leave it to the program");
  EXPECT_EQ(error_with("F0@0", "SA0@0 F0@0"),
            "it.txt:1:36: rank 0: RG0@0 is missing: add it, or leave all messages and sums to the program: only F, R, X, B, W");
  EXPECT_EQ(error_of("F0@0 F1@0", two_stages()),
            "it.txt:1:1: the schedule has 1 programs, the layout 2 ranks: write a line for each of the 2 pipeline ranks");
}

TEST(ScheduleFile, ThatNeverEndsNamesTheCause) {
  EXPECT_EQ(error_with("F0@1 X1.0@1", "X1.0@1 F0@1"), "it.txt:3:1: rank 1 is stuck at X1.0@1: it waits for F0@1, which comes later");
  // Each rank waits for the other: for the first gradient before the second forward, and the other way round.
  EXPECT_EQ(error_of("F0@0 X0.0@0 B0@0 F1@0 X0.1@0 B1@0\nF0@1 F1@1 X1.0@1 B0@1 X1.1@1 B1@1\n", two_stages()),
            "it.txt:2:6: rank 1 is stuck at F1@1: it waits for F1@0, which comes later");
  Layout layout = test::plain_layout(2, 1);
  EXPECT_EQ(error_of("F0@0 RG0@0 B0@0 SA0@0\nRA0@1 F0@1 B0@1 SG0@1", layout), "it.txt:1:12: rank 0 is stuck at B0@0: it waits for SG0@1");
}

}  // namespace
}  // namespace offramp
