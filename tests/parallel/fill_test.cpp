// Partial microbatches: where they stand, that they cost no time where no exit does, that nothing waits for ever, and what sums are
// divided by.
#include "parallel/fill.h"

#include <gtest/gtest.h>

#include <numeric>

#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/simulate.h"

namespace offramp {
namespace {

using test::coin;
using test::pick;
using test::plain_layout;
using test::Random;

Layout filled(Layout layout, Fill fill, int partial = 0) {
  layout.reach =
      filled_reach({.fill = fill, .partial = partial > 0 ? partial : gap_microbatches(layout.stages, kBackwardOverForward)}, layout);
  layout.microbatches = static_cast<int>(layout.reach.size());
  return layout;
}

Layout with_exits(int stages, int microbatches, const std::vector<int>& exits) {
  Layout layout = plain_layout(stages, microbatches);
  for (const int stage : exits) layout.exits.push_back({stage, 10 * stage, false, true});
  layout.exits.push_back({stages - 1, 10 * stages, false, true});
  return layout;
}

TEST(Fill, GapsHoldWhatTheFormulaSays) {
  EXPECT_EQ(gap_microbatches(2, 2), 0);
  EXPECT_EQ(gap_microbatches(3, 2), 1);
  EXPECT_EQ(gap_microbatches(4, 2), 2);
  EXPECT_EQ(gap_microbatches(8, 2), 4);
  EXPECT_EQ(gap_microbatches(8, 3), 5);
}

TEST(Fill, TheWarmUpIsFilledBeforeTheFirstBackward) {
  const Layout layout = filled(with_exits(4, 4, {0, 1}), Fill::warmup);
  EXPECT_EQ(to_text(one_f_one_b(layout)),
            "F2@0 F3@0 F4@0 F1@0 F0@0 F5@0 B0@0 B1@0 B2@0 B3@0 B4@0 B5@0\n"
            "F2@1 F3@1 F4@1 F1@1 B1@1 B2@1 F5@1 B3@1 B4@1 B5@1\n"
            "F2@2 F3@2 B2@2 F4@2 B3@2 F5@2 B4@2 B5@2\n"
            "F2@3 B2@3 F3@3 B3@3 F4@3 B4@3 F5@3 B5@3\n");
}

TEST(Fill, TheCoolDownIsFilledAfterTheLastBackward) {
  const Layout layout = filled(with_exits(4, 4, {0, 1}), Fill::cooldown);
  EXPECT_EQ(to_text(one_f_one_b(layout)),
            "F0@0 F1@0 F2@0 F3@0 B0@0 F4@0 B1@0 F5@0 B2@0 B3@0\n"
            "F0@1 F1@1 F2@1 B0@1 F3@1 B1@1 F4@1 B2@1 F5@1 B3@1\n"
            "F0@2 F1@2 B0@2 F2@2 B1@2 F3@2 B2@2 F4@2 B3@2 F5@2 B4@2\n"
            "F0@3 B0@3 F1@3 B1@3 F2@3 B2@3 F3@3 B3@3 F4@3 B4@3 F5@3 B5@3\n");
}

// A partial microbatch that would meet no exit at its end turns round below, at the last one; without any it is left out.
TEST(Fill, WarmUpEndsWhereAnExitIs) {
  const auto ends = [](const std::vector<int>& exits) {
    const Layout layout = filled(with_exits(8, 8, exits), Fill::warmup);
    std::vector<int> last;
    for (int m = 0; m < first_whole(layout); ++m) last.push_back(layout.reach[static_cast<std::size_t>(m)].last);
    return last;
  };
  EXPECT_EQ(ends({0, 1, 2, 3}), (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(ends({0}), (std::vector{0, 0, 0, 0}));
  EXPECT_EQ(ends({2}), (std::vector{2, 2}));
  EXPECT_EQ(ends({4}), std::vector<int>());
}

// With times as the formula takes them.
double plain_times(const Action& action) { return action.op == Op::Forward ? 1 : action.op == Op::Backward ? 2 : 0; }

TEST(Fill, CostsNoTimeForAnyExits) {
  for (int stages = 3; stages <= 8; ++stages)
    for (int exits = 0; exits < 1 << (stages - 1); ++exits)
      for (const Fill fill : {Fill::warmup, Fill::cooldown})
        for (const Placement placement : {Placement::before_backward, Placement::after_forward}) {
          std::vector<int> with;
          for (int s = 0; s + 1 < stages; ++s)
            if (exits >> s & 1) with.push_back(s);
          const Layout whole = with_exits(stages, 2 * stages, with), layout = filled(whole, fill);
          const double before = simulate(build_schedule("1f1b", whole, placement), whole, plain_times).seconds;
          const double after = simulate(build_schedule("1f1b", layout, placement), layout, plain_times).seconds;
          ASSERT_EQ(after, before) << stages << " stages, exits " << exits;
        }
}

// More of them than fit, few microbatches, exits that cost anything: still every schedule ends, and holds what it takes.
TEST(Fill, NothingWaitsForEver) {
  Random random(9);
  for (int trial = 0; trial < 600; ++trial) {
    Layout layout = plain_layout(pick(random, 2, 8), pick(random, 1, 12));
    test::add_random_exits(layout, random);
    test::add_random_ties(layout, random);
    if (coin(random)) test::add_random_buckets(layout, random);
    for (int s = 0; s < layout.stages && trial % 3 == 0; ++s) layout.recompute.push_back(coin(random));
    layout = filled(layout, coin(random) ? Fill::warmup : Fill::cooldown, pick(random, 1, layout.stages - 1));
    ScheduleOptions options{.name = "1f1b", .placement = Placement(pick(random, 0, 2))};
    std::array<double, kOps> seconds{};
    for (double& s : seconds) s = pick(random, 0, 9);
    options.times = [seconds](const Action& a) { return seconds[static_cast<std::size_t>(a.op)] * (1 + a.stage % 3); };
    const Schedule schedule = build_schedule(options, layout);
    ASSERT_NO_THROW(validate(schedule, layout)) << to_text(schedule);
    for (int r = 0; r < layout.ranks; ++r) ASSERT_EQ(build_program(options, layout, r), schedule[static_cast<std::size_t>(r)]);
  }
}

TEST(Fill, MemoryGrowsByThePartialMicrobatchesOfTheWarmUpAlone) {
  const Layout whole = with_exits(4, 8, {0, 1});
  const auto held = [](const Layout& layout) {
    std::vector<int> stashes;
    for (const SlabCounts& peak : peak_slabs(build_schedule("1f1b", layout), layout))
      stashes.push_back(peak[static_cast<std::size_t>(Hold::Stash)]);
    return stashes;
  };
  EXPECT_EQ(held(whole), (std::vector{4, 3, 2, 1}));
  EXPECT_EQ(held(filled(whole, Fill::warmup)), (std::vector{6, 4, 2, 1}));
  EXPECT_EQ(held(filled(whole, Fill::cooldown)), (std::vector{4, 3, 2, 1}));
}

TEST(Fill, SumsAreDividedByWhatTheySaw) {
  const Layout warmup = filled(with_exits(4, 5, {0, 1, 2}), Fill::warmup), cooldown = filled(with_exits(4, 5, {0, 1, 2}), Fill::cooldown);
  const std::vector<double> equal(7, 10.0);
  EXPECT_EQ(fill_weights(Fill::warmup, warmup, equal).exits, (std::vector<double>{70, 60, 50, 50}));
  EXPECT_EQ(fill_weights(Fill::warmup, warmup, equal).gradients, (std::vector<double>{1, 1, 1, 1}));
  EXPECT_EQ(fill_weights(Fill::cooldown, cooldown, equal).exits, (std::vector<double>{50, 50, 50, 50}));
  EXPECT_EQ(fill_weights(Fill::cooldown, cooldown, equal).gradients, (std::vector<double>{1, 1, 5.0 / 6, 5.0 / 7}));
  // Masked tokens do not count.
  const std::vector<double> counted = {1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(fill_weights(Fill::warmup, warmup, counted).exits, (std::vector<double>{28, 27, 25, 25}));
  EXPECT_EQ(fill_weights(Fill::cooldown, cooldown, counted).gradients, (std::vector<double>{1, 1, 15.0 / 21, 15.0 / 28}));
  EXPECT_EQ(fill_weights(Fill::none, with_exits(2, 2, {0}), std::vector<double>{3, 4}).exits, (std::vector<double>{7, 7}));
}

TEST(Fill, OnlyOneFOneBHasAPlace) {
  const Layout layout = filled(with_exits(4, 4, {0, 1}), Fill::warmup);
  for (const char* name : {"gpipe", "zero_bubble"}) EXPECT_THROW(build_schedule(name, layout), std::invalid_argument);
}

}  // namespace
}  // namespace offramp
