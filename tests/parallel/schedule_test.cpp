// What each action means, written out for one layout of three stages.
#include "parallel/schedule.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/actions.h"

namespace offramp {
namespace {

// Stage 0: exits 0 and 1 read tap 3, its output; stage 1: exits 2 and 3 read tap 5, 4 (detached) reads tap 6; stage 2: the final head.
Layout three_stages() {
  Layout layout = test::plain_layout(3, 2);
  layout.exits = {{0, 3, true, true},  {0, 3, true, true},   {1, 5, false, true},
                  {1, 5, false, true}, {1, 6, false, false}, {2, 8, false, true}};
  layout.segments = {1, 2, 1};
  layout.ties = {{2, 0}, {1}};
  layout.buckets = {{{0, -1}, {-1, 0}}, {{0, -1}, {1, -1}, {-1, 1}}, {}};
  return layout;
}

Layout evaluation() {
  Layout layout = three_stages();
  layout.backward = false;
  return layout;
}

Action action(std::string_view text) { return parse_schedule(text).at(0).at(0); }

std::string needs(std::string_view text, const Layout& layout = three_stages()) { return to_text(dependencies(action(text), layout)); }

std::string text_of(const std::vector<Slab>& slabs) {
  std::string text;
  for (const Slab& slab : slabs) {
    const std::string index = slab.index < 0 ? "" : fmt::format(" {}", slab.index);
    text += fmt::format("{}{}{} of {}@{}", text.empty() ? "" : ", ", name_of(slab.what), index, slab.microbatch, slab.stage);
  }
  return text;
}

std::string takes(std::string_view text, const Layout& layout = three_stages()) { return text_of(lifetimes(action(text), layout).takes); }
std::string gives(std::string_view text, const Layout& layout = three_stages()) { return text_of(lifetimes(action(text), layout).gives); }

TEST(Dependencies, OfForwards) {
  EXPECT_EQ(needs("F1@0"), "");
  EXPECT_EQ(needs("F1@1"), "RA1@1 SA1@0");
}

TEST(Dependencies, OfMessages) {
  EXPECT_EQ(needs("SA1@0"), "F1@0");
  EXPECT_EQ(needs("RA1@1"), "");
  EXPECT_EQ(needs("RG1@1"), "");
  EXPECT_EQ(needs("SG0@1"), "B0@1");
  EXPECT_EQ(needs("SG1@1"), "B1.1@1");
}

TEST(Dependencies, OfExitsKeepTheirOrder) {
  EXPECT_EQ(needs("X0.0@0"), "F0@0 SA0@0");
  EXPECT_EQ(needs("X1.0@0"), "F0@0 X0.0@0 SA0@0");
  EXPECT_EQ(needs("X0.1@0"), "F1@0 X1.0@0 SA1@0");
  EXPECT_EQ(needs("X2.0@1"), "F0@1");
  EXPECT_EQ(needs("X2.1@1"), "F1@1 X4.0@1");
  EXPECT_EQ(needs("X4.1@1"), "F1@1 X3.1@1");
}

TEST(Dependencies, OfBackwards) {
  EXPECT_EQ(needs("B0@2"), "F0@2 X5.0@2");
  EXPECT_EQ(needs("B0@1"), "F0@1 X2.0@1 X3.0@1 X4.0@1 RG0@1 SG0@2");
  EXPECT_EQ(needs("B1.0@1"), "F1@1 X2.1@1 X3.1@1 X4.1@1 RG1@1 SG1@2 B0@1");
  EXPECT_EQ(needs("B1.1@1"), "B1.0@1");
  EXPECT_EQ(needs("B1@0"), "F1@0 X0.1@0 X1.1@0 RG1@0 SG1@1 B0@0");
}

TEST(Dependencies, OfReductions) {
  EXPECT_EQ(needs("Y0@2"), "B1@2 X5.1@2");
  EXPECT_EQ(needs("Y0@0"), "B1@0 X0.1@0 X1.1@0 Y0@2");
  EXPECT_EQ(needs("Y1@1"), "B1.1@1 X2.1@1 X3.1@1 X4.1@1");
  EXPECT_EQ(needs("D0@0"), "B1@0 X0.1@0 X1.1@0");
  EXPECT_EQ(needs("D1@0"), "Y0@0 X0.1@0 X1.1@0");
  EXPECT_EQ(needs("D0@1"), "B1.0@1 X2.1@1 X3.1@1 X4.1@1");
  EXPECT_EQ(needs("D1@1"), "B1.1@1 X2.1@1 X3.1@1 X4.1@1");
}

TEST(Lifetimes, OfForwards) {
  EXPECT_EQ(takes("F1@0"), "stash of 1@0, output of 1@0");
  EXPECT_EQ(takes("F1@1"), "stash of 1@1, tap 5 of 1@1, tap 6 of 1@1, output of 1@1");
  EXPECT_EQ(takes("F1@2"), "stash of 1@2, tap 8 of 1@2");
  EXPECT_EQ(gives("F1@1"), "");
  EXPECT_EQ(takes("F1@1", evaluation()), "tap 5 of 1@1, tap 6 of 1@1, output of 1@1");
  EXPECT_EQ(gives("F1@1", evaluation()), "input of 1@1");
  EXPECT_EQ(gives("F1@0", evaluation()), "");
}

TEST(Lifetimes, OfMessages) {
  EXPECT_EQ(takes("RA1@1"), "input of 1@1");
  EXPECT_EQ(takes("RG1@1"), "gradient of 1@1");
  EXPECT_EQ(gives("SG1@1"), "gradient of 1@1");
  EXPECT_EQ(gives("SA1@1"), "output of 1@1");
  EXPECT_EQ(gives("SA1@0"), "") << "an exit still reads it";
  EXPECT_EQ(gives("SA1@0", evaluation()), "");
  EXPECT_EQ(gives("RA1@1") + gives("RG1@1") + takes("SA1@0") + takes("SG1@1"), "");
}

TEST(Lifetimes, OfExits) {
  EXPECT_EQ(takes("X3.1@1"), "tap gradient 3 of 1@1");
  EXPECT_EQ(takes("X4.1@1"), "") << "detached";
  EXPECT_EQ(gives("X4.1@1"), "");
  EXPECT_EQ(takes("X3.1@1", evaluation()), "");
  EXPECT_EQ(gives("X2.1@1", evaluation()), "") << "exit 3 reads the same tap";
  EXPECT_EQ(gives("X3.1@1", evaluation()), "tap 5 of 1@1");
  EXPECT_EQ(gives("X4.1@1", evaluation()), "tap 6 of 1@1");
  EXPECT_EQ(gives("X0.1@0", evaluation()), "");
  EXPECT_EQ(gives("X1.1@0", evaluation()), "output of 1@0");
}

TEST(Lifetimes, OfBackwards) {
  EXPECT_EQ(takes("B0@2"), "gradient of 0@2");
  EXPECT_EQ(gives("B0@2"), "stash of 0@2, input of 0@2, tap 8 of 0@2, tap gradient 5 of 0@2");
  EXPECT_EQ(takes("B1.0@1") + gives("B1.0@1"), "") << "the first of two segments";
  EXPECT_EQ(gives("B1.1@1"), "stash of 1@1, input of 1@1, tap 5 of 1@1, tap 6 of 1@1, tap gradient 2 of 1@1, tap gradient 3 of 1@1");
  EXPECT_EQ(gives("B1@0"), "stash of 1@0, tap gradient 0 of 1@0, tap gradient 1 of 1@0, output of 1@0, gradient of 1@0");
}

TEST(Lifetimes, OfALoneStage) {
  Layout layout = test::plain_layout(1, 1);
  layout.segments = {2};
  EXPECT_EQ(takes("F0@0", layout), "stash of 0@0");
  EXPECT_EQ(takes("B0.0@0", layout), "gradient of 0@0");
  EXPECT_EQ(takes("B0.1@0", layout), "");
  EXPECT_EQ(gives("B0.1@0", layout), "stash of 0@0, gradient of 0@0");
}

TEST(Actions, AreAllThere) {
  Layout layout = three_stages();
  layout.microbatches = 1;
  EXPECT_EQ(to_text(actions_of(layout)),
            "F0@0 SA0@0 RG0@0 X0.0@0 X1.0@0 B0@0 RA0@1 F0@1 SA0@1 RG0@1 X2.0@1 X3.0@1 X4.0@1 B0.0@1 B0.1@1 SG0@1 "
            "RA0@2 F0@2 X5.0@2 B0@2 SG0@2 Y0@2 Y0@0 Y1@1 D0@0 D1@0 D0@1 D1@1 D2@1");
  layout.backward = false;
  EXPECT_EQ(to_text(actions_of(layout)), "F0@0 SA0@0 X0.0@0 X1.0@0 RA0@1 F0@1 SA0@1 X2.0@1 X3.0@1 X4.0@1 RA0@2 F0@2 X5.0@2");
}

TEST(Actions, ExistAndDifferInTheirNumber) {
  test::Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Layout layout = test::random_layout(random);
    const ActionIds ids(layout);
    std::vector<bool> seen(ids.size(), false);
    for (const Action& one : actions_of(layout)) {
      ASSERT_TRUE(exists(one, layout)) << to_text(one);
      ASSERT_LT(ids(one), ids.size());
      ASSERT_FALSE(seen[ids(one)]) << to_text(one);
      seen[ids(one)] = true;
      for (const Action& needed : dependencies(one, layout))
        ASSERT_TRUE(exists(needed, layout)) << to_text(one) << " needs " << to_text(needed);
    }
  }
}

TEST(Actions, OfOtherLayoutsDoNotExist) {
  for (const char* text : {"F2@0", "F0@3", "SA0@2", "RA0@0", "SG0@0", "RG0@2", "X0.0@1", "X6.0@2", "B1@1", "B0.0@1", "B1.2@1", "B1.0@0",
                           "Y0@1", "Y2@0", "D2@0", "D0@2"}) {
    EXPECT_FALSE(exists(action(text), three_stages())) << text;
  }
  for (const char* text : {"B0@0", "SG0@1", "RG0@0", "Y0@0", "D0@0"}) EXPECT_FALSE(exists(action(text), evaluation())) << text;
}

TEST(Layouts, ThatContradictThemselvesAreRefused) {
  const auto refused = [](auto change) {
    Layout layout = three_stages();
    change(layout);
    EXPECT_THROW(check_layout(layout), std::invalid_argument);
  };
  check_layout(three_stages());
  refused([](Layout& layout) { layout.microbatches = 0; });
  refused([](Layout& layout) { layout.ranks = 4; });
  refused([](Layout& layout) { layout.ranks = 1; });
  refused([](Layout& layout) { layout.exits[0].stage = 3; });
  refused([](Layout& layout) { layout.segments = {1, 2}; });
  refused([](Layout& layout) { layout.segments[0] = 0; });
  refused([](Layout& layout) { layout.ties[0] = {0, 2}; });
  refused([](Layout& layout) { layout.ties[0] = {3, 0}; });
  refused([](Layout& layout) { layout.ties[1] = {}; });
  refused([](Layout& layout) { layout.buckets.pop_back(); });
  refused([](Layout& layout) { layout.buckets[0][0].segment = 1; });
  refused([](Layout& layout) { layout.buckets[0][0].segment = -1; });
  refused([](Layout& layout) { layout.buckets[0][0].tie = 0; });
  refused([](Layout& layout) { layout.buckets[0][1].tie = 1; });
}

}  // namespace
}  // namespace offramp
