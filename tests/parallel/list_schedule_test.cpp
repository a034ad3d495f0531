// Schedules that are searched: never worse than named ones, near their bound, within their limits.
#include "parallel/list_schedule.h"

#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

// EE-LLM's figure: a stage has 6 layers, a layer takes 1 + 1 + 1 (forward, input gradient, weight gradient), a head 3 + 3 + 3.
struct Figure {
  std::vector<int> layers = {6, 6, 6, 6};
  std::vector<int> exits;  // stages
  bool split_backward = true, split_heads = false;

  Layout layout() const {
    Layout l = test::plain_layout(4, 32);
    l.split_backward = split_backward;
    l.split_heads = split_heads;
    for (int s : exits) l.exits.push_back({s, 10 * s, true, true});
    l.exits.push_back({3, 100, false, true});
    return l;
  }
  Times times() const {
    return [*this](const Action& a) -> double {
      const double n = layers[static_cast<std::size_t>(a.stage)];
      if (a.op == Op::Forward || a.op == Op::WeightGrad) return n;
      if (a.op == Op::Backward) return split_backward ? n : 2 * n;
      if (a.op == Op::Exit) return 9;
      return a.op == Op::Scores || a.op == Op::HeadBackward || a.op == Op::HeadWeightGrad ? 0.75 : 0;
    };
  }
  double seconds(const std::string& name, const std::string& in_flight = "1f1b") const {
    const Layout l = layout();
    const ScheduleOptions options{
        .name = name, .placement = Placement::automatic, .times = times(), .limits = parse_in_flight(in_flight, l)};
    return simulate(build_schedule(options, l), l, times()).seconds;
  }
  double bound(const std::string& in_flight) const {
    return lower_bound(ActionGraph(layout(), times(), parse_in_flight(in_flight, layout())));
  }
};

TEST(Figure, HasTheBasesOfThePaper) {
  EXPECT_EQ((Figure{.split_backward = false}.seconds("1f1b")), 918);
  EXPECT_EQ((Figure{.layers = {7, 7, 7, 3}, .split_backward = false}.seconds("1f1b")), 729);
  EXPECT_EQ((Figure{.exits = {0, 0}, .split_backward = false}.seconds("1f1b")), 1152);
  EXPECT_LE((Figure{.split_heads = true}.seconds("auto", "1f1b+1")), 684 * 1.01);
}

TEST(Figure, HidesExitsOnTheFirstStage) {
  const double base = Figure{.split_heads = true}.seconds("auto", "1f1b+1");
  const double ours = Figure{.exits = {0, 0}, .split_heads = true}.seconds("auto", "1f1b+1");
  EXPECT_LE(ours, 1.20 * base);
  EXPECT_LE(ours, 0.72 * 1152);
}

TEST(Figure, HidesExitsOnMiddleStages) {
  const double base = Figure{.split_heads = true}.seconds("auto", "1f1b+1");
  EXPECT_LE((Figure{.exits = {1, 2}, .split_heads = true}.seconds("auto", "1f1b+1")), 1.20 * base);
}

// Counted by hand: the last forward of the third stage waits for 92 passes of 7, of which the first of those after its second forward
// cannot begin before 36; after it come 15 on the last stage and four more passes.
TEST(LowerBound, KnowsWhatMayBeKept) {
  const Figure figure{.layers = {7, 7, 7, 3}};
  EXPECT_EQ(figure.bound("1f1b"), 36 + 90 * 7 + 15 + 4 * 7);
  EXPECT_EQ(figure.seconds("auto", "1f1b"), figure.bound("1f1b"));
  EXPECT_EQ(figure.bound("8"), 14 + 96 * 7);
}

TEST(Automatic, IsNearItsBound) {
  for (const std::vector<int>& exits : {std::vector<int>{}, {0, 0}, {1, 2}}) {
    const Figure figure{.exits = exits};
    EXPECT_LE(figure.seconds("auto", "8"), 1.005 * figure.bound("8"));
    EXPECT_LE(figure.seconds("auto", "1f1b"), 1.025 * figure.bound("1f1b"));
  }
}

// What `in_flight` counts, counted again.
TEST(Automatic, KeepsItsLimitsAndLosesToNoNamedSchedule) {
  test::Random random(7);
  for (int trial = 0; trial < 60; ++trial) {
    Layout layout = test::plain_layout(test::pick(random, 1, 5), test::pick(random, 1, 12));
    test::add_random_exits(layout, random);
    layout.split_backward = test::coin(random);
    std::array<double, kOps> seconds{};
    for (double& s : seconds) s = test::pick(random, 1, 9);
    const Times times = [&](const Action& a) { return is_message(a.op) ? 0 : seconds[static_cast<std::size_t>(a.op)] * (1 + a.stage % 3); };
    const Limits limits = parse_in_flight("1f1b", layout);
    const Schedule found = build_schedule({.name = "auto", .times = times, .limits = limits, .trials = 20}, layout);
    const double ours = simulate(found, layout, times).seconds;
    for (const Placement placement : {Placement::after_forward, Placement::before_backward, Placement::automatic}) {
      const Schedule named = build_schedule({.name = "1f1b", .placement = placement, .times = times}, layout);
      EXPECT_LE(ours, simulate(named, layout, times).seconds * (1 + 1e-12)) << to_text(found) << "\n" << to_text(named);
    }
    for (const Program& program : found) {
      int held = 0;
      for (const Action& a : program) {
        held += a.op == Op::Forward ? 1 : 0;
        EXPECT_LE(held, layout.stages - a.stage);
        if (a.op == (layout.split_backward ? Op::WeightGrad : Op::Backward)) --held;
      }
    }
  }
}

// Several stages a rank: as many on each as interleaved keeps, so that auto may do what it does.
TEST(InFlight, OfSeveralStagesARankIsThatOfInterleaved) {
  for (int ranks = 2; ranks <= 5; ++ranks)
    for (int chunks = 2; chunks <= 4; ++chunks) {
      Layout layout = test::plain_layout(ranks * chunks, 4 * ranks);
      layout.ranks = ranks;
      std::vector<int> kept(static_cast<std::size_t>(layout.stages), 0), most = kept;
      for (const Program& program : interleaved(layout))
        for (const Action& a : program) {
          const auto s = static_cast<std::size_t>(a.stage);
          kept[s] += a.op == Op::Forward ? 1 : -1;
          most[s] = std::max(most[s], kept[s]);
        }
      const Limits limits = parse_in_flight("1f1b", layout);
      EXPECT_EQ(limits.in_flight, most) << ranks << " ranks, " << chunks << " stages each";
      const Times times = [](const Action& a) { return is_message(a.op) ? 0 : 1 + a.stage % 2; };
      const auto seconds = [&](const char* name) {
        return simulate(build_schedule({.name = name, .times = times, .limits = limits, .trials = 2}, layout), layout, times).seconds;
      };
      EXPECT_LE(seconds("auto"), seconds("interleaved"));
    }
}

TEST(InFlight, IsReadAsWritten) {
  const Layout layout = test::plain_layout(3, 9);
  EXPECT_EQ(parse_in_flight("1f1b", layout).in_flight, (std::vector<int>{3, 2, 1}));
  EXPECT_EQ(parse_in_flight("1f1b+2", layout).in_flight, (std::vector<int>{5, 4, 3}));
  EXPECT_EQ(parse_in_flight("7", layout).in_flight, (std::vector<int>{7, 7, 7}));
  for (const char* wrong : {"", "0", "-1", "1f1b+", "1f1b+x", "1f1b2", "7x", "x"})
    EXPECT_THROW(parse_in_flight(wrong, layout), std::invalid_argument) << wrong;
}

}  // namespace
}  // namespace offramp
