// Broken schedules, and the action that each refusal must name.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>

#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/simulate.h"

namespace offramp {
namespace {

Layout two_stages() {
  Layout layout = test::plain_layout(2, 3);
  layout.exits = {{0, 1}, {1, 4}};
  layout.segments = {2, 1};
  layout.ties = {{1, 0}};
  layout.buckets = {{{0, -1}, {1, -1}, {-1, 0}}, {{0, -1}}};
  return layout;
}

std::string error_of(const Schedule& schedule, const Layout& layout) {
  try {
    validate(schedule, layout);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "accepted";
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// The 1f1b schedule of two_stages() with one piece of its text replaced.
std::string error_with(const std::string& piece, const std::string& replacement) {
  std::string text = to_text(build_schedule("1f1b", two_stages()));
  const std::size_t at = text.find(piece);
  EXPECT_NE(at, std::string::npos) << piece << " is not in\n" << text;
  EXPECT_EQ(text.find(piece, at + 1), std::string::npos) << piece << " is there twice";
  return first_line(error_of(parse_schedule(text.replace(at, piece.size(), replacement)), two_stages()));
}

TEST(Validate, AcceptsTheBase) {
  EXPECT_EQ(to_text(build_schedule("1f1b", two_stages())),
            "F0@0 SA0@0 F1@0 SA1@0 RG0@0 X0.0@0 B0@0 F2@0 SA2@0 RG1@0 X0.1@0 B1@0 RG2@0 X0.2@0 B2.0@0 D0@0 B2.1@0 D1@0 Y0@0 D2@0\n"
            "RA0@1 F0@1 X1.0@1 RA1@1 B0@1 SG0@1 F1@1 X1.1@1 RA2@1 B1@1 SG1@1 F2@1 X1.2@1 B2@1 SG2@1 D0@1 Y0@1\n");
  EXPECT_EQ(error_of(build_schedule("1f1b", two_stages()), two_stages()), "accepted");
}

TEST(Validate, MissingAction) {
  for (const char* action : {"F1@0", "SA1@0", "RG1@0", "X0.1@0", "B1@0", "B2.0@0", "D1@0", "Y0@0"}) {
    EXPECT_EQ(error_with(std::string(action) + " ", ""), fmt::format("rank 0: {} is missing", action));
  }
  for (const char* action : {"RA1@1", "SG0@1", "B1@1"}) {
    EXPECT_EQ(error_with(std::string(action) + " ", ""), fmt::format("rank 1: {} is missing", action));
  }
}

TEST(Validate, DuplicateAction) {
  EXPECT_EQ(error_with("F1@0 ", "F1@0 F1@0 "), "rank 0: F1@0 is there twice");
  EXPECT_EQ(error_with("D1@0 ", "D1@0 D0@0 "), "rank 0: D0@0 is there twice");
}

TEST(Validate, ForeignAction) {
  EXPECT_EQ(error_with("F1@0 ", "F1@0 F1@1 "), "rank 0: F1@1 belongs to rank 1");
  EXPECT_EQ(error_with("F1@0 ", "F1@0 F3@0 "), "rank 0: F3@0 does not exist in this layout");
  EXPECT_EQ(error_with("B2.0@0 ", "B2@0 "), "rank 0: B2@0 does not exist in this layout");
  EXPECT_EQ(error_with("Y0@1\n", "Y0@1\nF0@2\n"), "the schedule has 3 programs, the layout 2 ranks");
}

TEST(Validate, SwappedActions) {
  EXPECT_EQ(error_with("F1@0 SA1@0", "SA1@0 F1@0"), "rank 0 is stuck at SA1@0: it waits for F1@0");
  EXPECT_EQ(error_with("X1.1@1 RA2@1 B1@1", "B1@1 RA2@1 X1.1@1"), "rank 1 is stuck at B1@1: it waits for X1.1@1");
  EXPECT_EQ(error_with("B2.0@0 D0@0 B2.1@0", "B2.1@0 D0@0 B2.0@0"), "rank 0 is stuck at B2.1@0: it waits for B2.0@0");
  EXPECT_EQ(error_with("B2.0@0 D0@0", "D0@0 B2.0@0"), "rank 0 is stuck at D0@0: it waits for B2.0@0");
  EXPECT_EQ(error_with("Y0@0 D2@0", "D2@0 Y0@0"), "rank 0 is stuck at D2@0: it waits for Y0@0");
  EXPECT_EQ(error_with("B1@1 SG1@1", "SG1@1 B1@1"), "rank 1 is stuck at SG1@1: it waits for B1@1");
}

TEST(Validate, Deadlock) {
  // Rank 0 wants a gradient before it has sent what it comes from.
  EXPECT_EQ(error_with("F2@0 SA2@0 RG1@0 X0.1@0 B1@0 RG2@0 X0.2@0 B2.0@0", "F2@0 RG1@0 X0.1@0 B1@0 RG2@0 X0.2@0 B2.0@0 SA2@0"),
            "rank 0 is stuck at B2.0@0: it waits for SG2@1");
  // It runs only while the transport buffers a message.
  EXPECT_EQ(error_with("SA1@0 RG0@0 X0.0@0 B0@0 F2@0 SA2@0", "SA1@0 F2@0 SA2@0 RG0@0 X0.0@0 B0@0"),
            "rank 0 is stuck at SA2@0: it waits for RA2@1");
}

TEST(Validate, CrossedChannels) {
  Layout layout = test::plain_layout(2, 2);
  EXPECT_EQ(first_line(error_of(parse_schedule("F0@0 SA0@0 F1@0 SA1@0 RG0@0 RG1@0 B0@0 B1@0\n"
                                               "RA1@1 RA0@1 F0@1 F1@1 B0@1 SG0@1 B1@1 SG1@1\n"),
                                layout)),
            "rank 0 sends SA0@0 where rank 1 receives RA1@1: a channel keeps its order");
  EXPECT_EQ(first_line(error_of(parse_schedule("F0@0 SA0@0 F1@0 SA1@0 RG1@0 RG0@0 B0@0 B1@0\n"
                                               "RA0@1 RA1@1 F0@1 F1@1 B0@1 SG0@1 B1@1 SG1@1\n"),
                                layout)),
            "rank 1 sends SG0@1 where rank 0 receives RG1@0: a channel keeps its order");
}

TEST(Validate, NamesTheFirstRankOfACircle) {
  const Layout layout = test::plain_layout(3, 2);
  std::string text = to_text(build_schedule("gpipe", layout));
  const std::string right = "SA1@0 RG1@0 B0@0", wrong = "RG1@0 B0@0 SA1@0";
  text.replace(text.find(right), right.size(), wrong);
  EXPECT_EQ(first_line(error_of(parse_schedule(text), layout)), "rank 0 is stuck at B0@0: it waits for SG0@1");
}

TEST(Validate, TiesThatWaitForEachOther) {
  Layout layout = test::plain_layout(2, 1);
  layout.ties = {{1, 0}, {1, 0}};
  EXPECT_EQ(first_line(error_of(parse_schedule("F0@0 SA0@0 RG0@0 B0@0 Y0@0 Y1@0\n"
                                               "RA0@1 F0@1 B0@1 SG0@1 Y1@1 Y0@1\n"),
                                layout)),
            "rank 1 is stuck at Y1@1: it waits for Y0@1");
}

TEST(Validate, NamesTheCauseNotItsVictims) {
  // Stage 2 takes its backward before its forward; 0, 1 and 3 are stuck only because of it.
  std::string text = to_text(build_schedule("1f1b", test::plain_layout(4, 2)));
  const std::string right = "F0@2 SA0@2", wrong = "SA0@2 F0@2";
  text.replace(text.find(right), right.size(), wrong);
  EXPECT_EQ(error_of(parse_schedule(text), test::plain_layout(4, 2)),
            "rank 2 is stuck at SA0@2: it waits for F0@2\n"
            "  rank 0: ... SA0@0 RG0@0 F1@0 SA1@0 RG1@0 >>B0@0<< B1@0\n"
            "  rank 1: ... SA0@1 RG0@1 F1@1 SA1@1 RG1@1 >>B0@1<< SG0@1 B1@1 SG1@1\n"
            "  rank 2: RA0@2 RA1@2 >>SA0@2<< F0@2 RG0@2 F1@2 SA1@2 RG1@2 ...\n"
            "  rank 3: RA0@3 >>F0@3<< RA1@3 B0@3 SG0@3 F1@3 B1@3 ...\n");
}

TEST(Validate, ShowsTheCausesNeighbourhoodOfManyRanks) {
  const Layout layout = test::plain_layout(100, 1);
  Schedule schedule = build_schedule("1f1b", layout);
  std::ranges::reverse(schedule[50]);
  const std::string error = error_of(schedule, layout);
  EXPECT_EQ(first_line(error), "rank 50 is stuck at SG0@50: it waits for B0@50");
  EXPECT_NE(error.find("  rank 50: >>SG0@50<< B0@50"), std::string::npos) << error;
  EXPECT_EQ(std::ranges::count(error, '\n'), 18) << error;
  EXPECT_TRUE(error.ends_with("  and 84 more ranks\n")) << error;
}

TEST(Validate, AllRandomDamageIsFound) {
  test::Random random(6);
  int refused = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    Layout layout = test::random_layout(random);
    layout.reach.clear();  // 1F1B runs whole microbatches
    Schedule schedule = build_schedule("1f1b", layout);
    Program& program = schedule[random() % schedule.size()];
    const std::size_t at = random() % program.size();
    const Action action = program[at];
    switch (trial % 3) {
      case 0:
        program.erase(program.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 1:
        program.insert(program.begin() + static_cast<std::ptrdiff_t>(random() % program.size()), action);
        break;
      default:
        schedule[(random() % schedule.size())].push_back(action);
    }
    const std::string error = first_line(error_of(schedule, layout));
    ASSERT_NE(error.find(to_text(action)), std::string::npos) << error << "\n" << to_text(schedule);
    ++refused;
  }
  EXPECT_EQ(refused, 1000);
}

TEST(Validate, LargeLayoutsTakeNoTime) {
  Layout layout = test::plain_layout(64, 256);
  for (int s = 0; s < 64; ++s) layout.exits.push_back({s, 10 * s, s % 2 == 0});
  layout.segments.assign(64, 4);
  const auto begin = std::chrono::steady_clock::now();
  const Schedule schedule = build_schedule("1f1b", layout);
  validate(schedule, layout);
  peak_slabs(schedule, layout);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  RecordProperty("milliseconds", static_cast<int>(1000 * seconds.count()));
  EXPECT_LT(seconds.count(), 3.0) << "about 0.1 s is expected; a quadratic step takes minutes";
}

}  // namespace
}  // namespace offramp
