// Golden schedules. Each was derived by hand from the rules in parallel/generators.h.
#include "parallel/generators.h"

#include <gtest/gtest.h>

#include "layouts.h"

namespace offramp {
namespace {

using test::plain_layout;

TEST(Gpipe, IsAllForwardsThenAllBackwards) {
  EXPECT_EQ(to_text(gpipe(plain_layout(2, 3))),
            "F0@0 F1@0 F2@0 B0@0 B1@0 B2@0\n"
            "F0@1 F1@1 F2@1 B0@1 B1@1 B2@1\n");
}

TEST(OneFOneB, AlternatesAfterTheWarmUp) {
  EXPECT_EQ(to_text(one_f_one_b(plain_layout(4, 5))),
            "F0@0 F1@0 F2@0 F3@0 B0@0 F4@0 B1@0 B2@0 B3@0 B4@0\n"
            "F0@1 F1@1 F2@1 B0@1 F3@1 B1@1 F4@1 B2@1 B3@1 B4@1\n"
            "F0@2 F1@2 B0@2 F2@2 B1@2 F3@2 B2@2 F4@2 B3@2 B4@2\n"
            "F0@3 B0@3 F1@3 B1@3 F2@3 B2@3 F3@3 B3@3 F4@3 B4@3\n");
}

TEST(OneFOneB, HasFewerMicrobatchesThanStages) {
  EXPECT_EQ(to_text(one_f_one_b(plain_layout(4, 2))),
            "F0@0 F1@0 B0@0 B1@0\n"
            "F0@1 F1@1 B0@1 B1@1\n"
            "F0@2 F1@2 B0@2 B1@2\n"
            "F0@3 B0@3 F1@3 B1@3\n");
}

// Of three passes the second ends on stage 1, the third on stage 0.
Layout passes_of_three_depths(int samples) {
  Layout layout = plain_layout(3, 3 * samples);
  layout.exits = {{0, 1}, {1, 3}, {2, 5}};
  const ExitRole runs = ExitRole::alone, absent = ExitRole::absent;
  layout.passes = {{2, {runs, runs, runs}}, {1, {absent, runs, absent}}, {0, {runs, absent, absent}}};
  return layout;
}

TEST(TurningOneFOneB, LetsPassesThatEndEarlyTurnRoundBeforeOthersComeBack) {
  EXPECT_EQ(to_text(turning_one_f_one_b(passes_of_three_depths(3))),
            "F0@0 F3@0 F1@0 B0@0 F6@0 B1@0 F2@0 B2@0 F4@0 B3@0 F7@0 B4@0 F5@0 B5@0 F8@0 B6@0 B7@0 B8@0\n"
            "F0@1 F3@1 B0@1 F1@1 B1@1 F6@1 B3@1 F4@1 B4@1 F7@1 B6@1 B7@1\n"
            "F0@2 B0@2 F3@2 B3@2 F6@2 B6@2\n");
}

TEST(TurningOneFOneB, IsOneFOneBWhereAllEndOnOneStage) {
  for (const int stages : {1, 2, 5})
    for (const int microbatches : {1, 3, 12})
      EXPECT_EQ(turning_one_f_one_b(plain_layout(stages, microbatches)), one_f_one_b(plain_layout(stages, microbatches)));
}

TEST(OneFOneB, KeepsMoreOnAllStagesButTheLast) {
  EXPECT_EQ(to_text(one_f_one_b(plain_layout(2, 4), 1)),
            "F0@0 F1@0 F2@0 B0@0 F3@0 B1@0 B2@0 B3@0\n"
            "F0@1 B0@1 F1@1 B1@1 F2@1 B2@1 F3@1 B3@1\n");
}

TEST(OneFOneB, OnOneStageHoldsOneMicrobatch) {
  EXPECT_EQ(to_text(build_schedule("1f1b", plain_layout(1, 3))), "F0@0 B0@0 F1@0 B1@0 F2@0 B2@0\n");
}

TEST(Gpipe, GoesUpAndDownSeveralStagesOfARank) {
  Layout layout = plain_layout(4, 2);
  layout.ranks = 2;
  EXPECT_EQ(to_text(gpipe(layout)),
            "F0@0 F1@0 F0@2 F1@2 B0@2 B1@2 B0@0 B1@0\n"
            "F0@1 F1@1 F0@3 F1@3 B0@3 B1@3 B0@1 B1@1\n");
}

TEST(Interleaved, RunsGroupsOfMicrobatchesThroughOneChunkAfterTheOther) {
  Layout layout = plain_layout(4, 4);
  layout.ranks = 2;
  EXPECT_EQ(to_text(interleaved(layout)),
            "F0@0 F1@0 F0@2 F1@2 F2@0 B0@2 F3@0 B1@2 F2@2 B0@0 F3@2 B1@0 B2@2 B3@2 B2@0 B3@0\n"
            "F0@1 F1@1 F0@3 B0@3 F1@3 B1@3 F2@1 B0@1 F3@1 B1@1 F2@3 B2@3 F3@3 B3@3 B2@1 B3@1\n");
  layout.microbatches = 3;
  EXPECT_THROW(interleaved(layout), std::invalid_argument);
  EXPECT_THROW(interleaved(plain_layout(4, 4)), std::invalid_argument);
}

TEST(ZeroBubble, DoesWeightGradientsLaterTheHigherTheStage) {
  EXPECT_EQ(to_text(zero_bubble(plain_layout(3, 4))),
            "F0@0 F1@0 F2@0 B0@0 W0@0 F3@0 B1@0 W1@0 B2@0 W2@0 B3@0 W3@0\n"
            "F0@1 F1@1 B0@1 F2@1 B1@1 W0@1 F3@1 B2@1 W1@1 B3@1 W2@1 W3@1\n"
            "F0@2 B0@2 F1@2 B1@2 F2@2 B2@2 W0@2 F3@2 B3@2 W1@2 W2@2 W3@2\n");
}

TEST(ExitsOnly, AreForwardsAndExits) {
  Layout layout = plain_layout(2, 2);
  layout.frozen = true;
  layout.exits = {{0, 1, true}, {1, 3}};
  EXPECT_EQ(to_text(build_schedule("exits_only", layout)),
            "F0@0 SA0@0 X0.0@0 F1@0 SA1@0 X0.1@0\n"
            "RA0@1 F0@1 RA1@1 X1.0@1 F1@1 X1.1@1\n");
}

TEST(Recompute, StandsBeforeItsBackward) {
  Layout layout = plain_layout(1, 2);
  layout.recompute = {true};
  layout.segments = {2};
  layout.exits = {{0, 1}};
  EXPECT_EQ(to_text(build_schedule("1f1b", layout)), "F0@0 X0.0@0 R0@0 B0@0 F1@0 X0.1@0 R1@0 B1.0@0 B1.1@0\n");
}

TEST(SplitHeads, AreDoneByAllRanksTogether) {
  Layout layout = plain_layout(2, 1);
  layout.split_heads = true;
  layout.exits = {{1, 4}};
  EXPECT_EQ(to_text(build_schedule("1f1b", layout)),
            "HT0.0@0 F0@0 SA0@0 S0.0@0 HM0.0@0 G0.0@0 RG0@0 HU0.0@0 H0.0@0 B0@0\n"
            "RA0@1 F0@1 T0.0@1 HT0.0@1 S0.0@1 HU0.0@1 HM0.0@1 G0.0@1 U0.0@1 B0@1 SG0@1 H0.0@1\n");
}

TEST(Exits, StandAfterForwardsOrBeforeBackwards) {
  Layout layout = plain_layout(2, 2);
  layout.exits = {{0, 1}, {0, 2}, {1, 4}};
  EXPECT_EQ(to_text(place_exits(one_f_one_b(layout), layout, Placement::after_forward)),
            "F0@0 X0.0@0 X1.0@0 F1@0 X0.1@0 X1.1@0 B0@0 B1@0\n"
            "F0@1 X2.0@1 B0@1 F1@1 X2.1@1 B1@1\n");
  EXPECT_EQ(to_text(place_exits(one_f_one_b(layout), layout, Placement::before_backward)),
            "F0@0 F1@0 X0.0@0 X1.0@0 B0@0 X0.1@0 X1.1@0 B1@0\n"
            "F0@1 X2.0@1 B0@1 F1@1 X2.1@1 B1@1\n");
}

TEST(Exits, StandBeforeTheFirstSegmentWhicheverPassComesFirst) {
  Layout layout = plain_layout(1, 2);
  layout.exits = {{0, 1}};
  layout.segments = {3};
  const std::string expected = "F0@0 X0.0@0 B0@0 F1@0 X0.1@0 B1.0@0 B1.1@0 B1.2@0\n";
  const Schedule placed = place_exits(one_f_one_b(layout), layout, Placement::before_backward);
  EXPECT_EQ(to_text(split_last_backward(placed, layout)), expected);
  const Schedule split = split_last_backward(one_f_one_b(layout), layout);
  EXPECT_EQ(to_text(place_exits(split, layout, Placement::before_backward)), expected);
}

TEST(Communication, PostsReceivesOneActionAheadAndSendsAtOnce) {
  EXPECT_EQ(to_text(build_schedule("1f1b", plain_layout(3, 3))),
            "F0@0 SA0@0 F1@0 SA1@0 RG0@0 F2@0 SA2@0 RG1@0 B0@0 RG2@0 B1@0 B2@0\n"
            "RA0@1 RA1@1 F0@1 SA0@1 RG0@1 F1@1 SA1@1 RA2@1 B0@1 SG0@1 RG1@1 F2@1 SA2@1 RG2@1 B1@1 SG1@1 B2@1 SG2@1\n"
            "RA0@2 F0@2 RA1@2 B0@2 SG0@2 F1@2 RA2@2 B1@2 SG1@2 F2@2 B2@2 SG2@2\n");
  EXPECT_EQ(to_text(build_schedule("gpipe", plain_layout(2, 2))),
            "F0@0 SA0@0 RG0@0 F1@0 SA1@0 RG1@0 B0@0 B1@0\n"
            "RA0@1 RA1@1 F0@1 F1@1 B0@1 SG0@1 B1@1 SG1@1\n");
}

TEST(Communication, SendsBeforeTheExitsOfAStage) {
  Layout layout = plain_layout(2, 2);
  layout.exits = {{0, 1, true}, {1, 4}};
  EXPECT_EQ(to_text(build_schedule("1f1b", layout, Placement::after_forward)),
            "F0@0 SA0@0 X0.0@0 F1@0 SA1@0 RG0@0 X0.1@0 RG1@0 B0@0 B1@0\n"
            "RA0@1 F0@1 X1.0@1 RA1@1 B0@1 SG0@1 F1@1 X1.1@1 B1@1 SG1@1\n");
  EXPECT_EQ(to_text(build_schedule("1f1b", layout)),
            "F0@0 SA0@0 F1@0 SA1@0 RG0@0 X0.0@0 B0@0 RG1@0 X0.1@0 B1@0\n"
            "RA0@1 F0@1 X1.0@1 RA1@1 B0@1 SG0@1 F1@1 X1.1@1 B1@1 SG1@1\n");
}

TEST(Communication, ReducesBucketsAndTiesAsSoonAsTheyAreFinal) {
  Layout layout = plain_layout(2, 1);
  layout.exits = {{1, 4}};
  layout.segments = {2, 3};
  layout.ties = {{1, 0}, {1}};
  layout.buckets = {{{0, -1}, {1, -1}, {-1, 0}}, {{1, -1}, {1, -1}, {2, -1}, {-1, 1}, {-1, 0}}};
  EXPECT_EQ(to_text(build_schedule("1f1b", layout)),
            "RG0@0 F0@0 SA0@0 B0.0@0 D0@0 B0.1@0 D1@0 Y0@0 D2@0\n"
            "RA0@1 F0@1 X0.0@1 B0.0@1 B0.1@1 D0@1 D1@1 B0.2@1 SG0@1 D2@1 Y0@1 D4@1 Y1@1 D3@1\n");
}

TEST(Communication, ReducesAWholeBackwardsBuckets) {
  Layout layout = plain_layout(1, 2);
  layout.buckets = {{{0, -1}, {0, -1}}};
  EXPECT_EQ(to_text(build_schedule("gpipe", layout)), "F0@0 F1@0 B0@0 B1@0 D0@0 D1@0\n");
}

TEST(Evaluation, IsForwardsAndExitsOnly) {
  Layout layout = plain_layout(2, 3);
  layout.backward = false;
  layout.exits = {{0, 1, true}, {1, 4}};
  layout.segments = {2, 2};
  layout.ties = {{1, 0}};
  layout.buckets = {{{1, -1}}, {{-1, 0}}};
  const std::string expected =
      "F0@0 SA0@0 X0.0@0 F1@0 SA1@0 X0.1@0 F2@0 SA2@0 X0.2@0\n"
      "RA0@1 F0@1 RA1@1 X1.0@1 F1@1 RA2@1 X1.1@1 F2@1 X1.2@1\n";
  for (const char* name : {"gpipe", "1f1b"}) {
    for (Placement placement : {Placement::after_forward, Placement::before_backward}) {
      EXPECT_EQ(to_text(build_schedule(name, layout, placement)), expected);
    }
  }
}

TEST(BuildSchedule, RefusesWhatItCannotBuild) {
  EXPECT_THROW(build_schedule("2f2b", plain_layout(2, 2)), std::invalid_argument);
  Layout layout = plain_layout(4, 2);
  layout.ranks = 2;
  EXPECT_THROW(build_schedule("1f1b", layout), std::invalid_argument);
  layout.ranks = 5;
  EXPECT_THROW(build_schedule("gpipe", layout), std::invalid_argument);
}

}  // namespace
}  // namespace offramp
