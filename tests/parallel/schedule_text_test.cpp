#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

std::string error_of(std::string_view text) {
  try {
    parse_schedule(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ScheduleText, HasEveryKindOfAction) {
  const Program program{{Op::Forward, 1, 2, -1},        {Op::Exit, 1, 2, 0},        {Op::Backward, 0, 7, -1},
                        {Op::Backward, 0, 7, 2},        {Op::SendActivation, 1, 2}, {Op::RecvActivation, 1, 2},
                        {Op::SendGradient, 1, 2},       {Op::RecvGradient, 1, 2},   {Op::ReduceTied, 3, -1, 0},
                        {Op::ReduceGradients, 5, -1, 4}};
  const std::string text = "F2@1 X0.2@1 B7@0 B7.2@0 SA2@1 RA2@1 SG2@1 RG2@1 Y0@3 D4@5";
  EXPECT_EQ(to_text(program), text);
  EXPECT_EQ(parse_schedule(text), Schedule{program});
}

TEST(ScheduleText, SkipsCommentsAndBlankLines) {
  const Schedule schedule = parse_schedule("# two ranks\n\n  F0@0\tSA0@0  # the first\r\n   \nRA0@1 F0@1");
  EXPECT_EQ(to_text(schedule), "F0@0 SA0@0\nRA0@1 F0@1\n");
}

TEST(ScheduleText, ReadsBackWhatItWrote) {
  test::Random random(2);
  for (int trial = 0; trial < 300; ++trial) {
    Layout layout = test::random_layout(random);
    layout.reach.clear();  // the named schedules run whole microbatches
    const Schedule schedule = build_schedule(test::coin(random) ? "gpipe" : "1f1b", layout);
    ASSERT_EQ(parse_schedule(to_text(schedule)), schedule);
  }
}

TEST(ScheduleText, ErrorsSayWhere) {
  EXPECT_EQ(error_of("F0@0 Q1@0").substr(0, 53), "schedule:1:6: expected F, R, X, B, W, T, S, G, H, U, ");
  EXPECT_EQ(error_of("F0@0\n # nothing\n B1x0@2 F1@0").substr(0, 41), "schedule:3:4: expected '@' in 'B1x0@2'; a");
  EXPECT_EQ(error_of("F@0").substr(0, 38), "schedule:1:2: expected a number in 'F@");
  EXPECT_EQ(error_of("F0@").substr(0, 38), "schedule:1:4: expected a number in 'F0");
  EXPECT_EQ(error_of("F-1@0").substr(0, 38), "schedule:1:2: expected a number in 'F-");
  EXPECT_EQ(error_of("X1@0").substr(0, 34), "schedule:1:3: expected '.' in 'X1@");
  EXPECT_EQ(error_of("F1.0@0").substr(0, 34), "schedule:1:3: expected '@' in 'F1.");
  EXPECT_EQ(error_of("F0@0F1@0").substr(0, 37), "schedule:1:5: expected a space in 'F0");
  EXPECT_EQ(error_of("F32768@0").substr(0, 44), "schedule:1:2: expected a number up to 32767 ");
  EXPECT_EQ(error_of("F99999999999@0").substr(0, 44), "schedule:1:2: expected a number up to 32767 ");
  EXPECT_EQ(to_text(parse_schedule("F32767@0")), "F32767@0\n");
}

}  // namespace
}  // namespace offramp
