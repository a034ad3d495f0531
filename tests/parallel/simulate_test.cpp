#include "parallel/simulate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "layouts.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

using test::plain_layout;

// Powers of two: sums are exact.
double equal_times(const Action& action) {
  if (action.op == Op::Forward) return 1.0;
  return action.op == Op::Backward ? 2.0 : 0.0;
}

TEST(Simulate, EqualStagesFollowTheClosedForm) {
  for (const char* name : {"gpipe", "1f1b"}) {
    for (int stages : {1, 2, 3, 4, 8}) {
      for (int microbatches : {1, 2, 3, 8, 13}) {
        const Layout layout = plain_layout(stages, microbatches);
        const Timeline timeline = simulate(build_schedule(name, layout), layout, equal_times);
        EXPECT_EQ(timeline.seconds, 3.0 * (microbatches + stages - 1)) << name << " " << stages << " " << microbatches;
        const double busy = std::accumulate(timeline.busy.begin(), timeline.busy.end(), 0.0);
        const double bubble = 1 - busy / (stages * timeline.seconds);
        EXPECT_NEAR(bubble, (stages - 1.0) / (microbatches + stages - 1), 1e-12);
      }
    }
  }
}

double random_part(const Action& action, const std::vector<double>& times) {
  const double of_stage = times[static_cast<std::size_t>(action.stage)];
  if (action.op == Op::Forward) return of_stage;
  return action.op == Op::Backward ? 2 * of_stage : 0.0;
}

// methods.md, section 1: T <= (M-1) max(F+B) + sum(F+B), equal when the last stage is the slowest.
TEST(Simulate, UnequalStagesKeepTheBound) {
  test::Random random(7);
  for (int trial = 0; trial < 300; ++trial) {
    const Layout layout = plain_layout(test::pick(random, 1, 8), test::pick(random, 1, 12));
    std::vector<double> times;
    for (int s = 0; s < layout.stages; ++s) times.push_back(test::pick(random, 1, 16));
    const bool slowest_last = trial % 2 == 0;
    if (slowest_last) std::iter_swap(std::ranges::max_element(times), times.end() - 1);
    const Times of = [&](const Action& action) { return random_part(action, times); };
    const double sum = 3 * std::accumulate(times.begin(), times.end(), 0.0), most = 3 * *std::ranges::max_element(times);
    const double bound = (layout.microbatches - 1) * most + sum;
    const double seconds = simulate(build_schedule("1f1b", layout), layout, of).seconds;
    EXPECT_GE(seconds, (layout.microbatches - 1) * most);
    EXPECT_LE(seconds, bound);
    if (slowest_last) {
      EXPECT_EQ(seconds, bound);
    }
  }
}

// An exit waits for no message: where the last stage is the slowest, the others run theirs while they wait for gradients.
TEST(Simulate, MiddleExitsHideBehindTheFinalHead) {
  const Times times = [](const Action& action) { return action.op == Op::Exit ? 0.75 : equal_times(action); };
  for (int microbatches : {8, 32}) {
    Layout layout = plain_layout(4, microbatches);
    layout.exits = {{3, 30}};
    const double without = simulate(build_schedule("1f1b", layout), layout, times).seconds;
    EXPECT_EQ(without, (microbatches - 1) * 3.75 + 3 * 3.0 + 3.75);
    layout.exits = {{1, 10}, {2, 20}, {3, 30}};
    EXPECT_EQ(simulate(build_schedule("1f1b", layout), layout, times).seconds, without);
    layout.exits = {{1, 10}, {1, 11}, {2, 20}, {3, 30}};  // now stage 1 is the slowest
    EXPECT_GE(simulate(build_schedule("1f1b", layout), layout, times).seconds, without + (microbatches - 4) * 0.75);
  }
}

std::map<std::string, Span> spans_of(const Timeline& timeline) {
  std::map<std::string, Span> spans;
  for (const Span& span : timeline.spans) spans[to_text(span.action)] = span;
  return spans;
}

// F 1 s, B 2 s, a message 0.5 s, an exit 0.25 s, a bucket 4 s, a tie 0.125 s.
double all_times(const Action& action) {
  switch (action.op) {
    case Op::SendActivation:
    case Op::SendGradient:
      return 0.5;
    case Op::Exit:
      return 0.25;
    case Op::ReduceTied:
      return 0.125;
    case Op::ReduceGradients:
      return 4.0;
    default:
      return equal_times(action);
  }
}

TEST(Simulate, MessagesTravelWhileTheirRankGoesOn) {
  Layout layout = plain_layout(2, 2);
  layout.ties = {{1, 0}};
  layout.buckets = {{{-1, 0}}, {{0, -1}, {0, -1}}};
  const Timeline timeline = simulate(build_schedule("1f1b", layout), layout, all_times);
  auto spans = spans_of(timeline);
  EXPECT_EQ(timeline.spans.size(), 21U);
  const auto expect = [&](const char* action, double begin, double end) {
    EXPECT_EQ(spans.at(action).begin, begin) << action;
    EXPECT_EQ(spans.at(action).end, end) << action;
  };
  expect("SA0@0", 1.0, 1.5);
  expect("F1@0", 1.0, 2.0);  // not delayed by the message
  expect("F0@1", 1.5, 2.5);
  expect("RA1@1", 2.5, 2.5);
  expect("SA1@0", 2.5, 3.0);  // waits for its receive
  expect("B0@1", 2.5, 4.5);
  expect("SG0@1", 4.5, 5.0);
  expect("F1@1", 4.5, 5.5);
  expect("B0@0", 5.0, 7.0);
  expect("B1@1", 5.5, 7.5);
  expect("B1@0", 8.0, 10.0);
  expect("D0@1", 7.5, 11.5);
  expect("D1@1", 11.5, 15.5);  // one after the other
  expect("Y0@1", 7.5, 7.625);
  expect("Y0@0", 10.0, 10.125);
  expect("D0@0", 10.125, 14.125);
  EXPECT_EQ(timeline.seconds, 15.5);
  EXPECT_EQ(timeline.busy, (std::vector<double>{6.125, 6.125}));
}

TEST(Simulate, AnExitAtTheOutputRunsWhileTheOutputTravels) {
  Layout layout = plain_layout(2, 1);
  layout.exits = {{0, 1, true}};
  auto spans = spans_of(simulate(build_schedule("1f1b", layout, Placement::after_forward), layout, all_times));
  EXPECT_EQ(spans.at("SA0@0").end, 1.5);
  EXPECT_EQ(spans.at("X0.0@0").begin, 1.0);
}

TEST(Simulate, AWireCarriesOneMessageAtATime) {
  Layout layout = plain_layout(2, 3);
  layout.backward = false;
  const Times times = [](const Action& action) { return action.op == Op::SendActivation ? 4.0 : action.stage == 0 ? 1.0 : 0.5; };
  auto spans = spans_of(simulate(build_schedule("gpipe", layout), layout, times));
  EXPECT_EQ(spans.at("SA0@0").begin, 1.0);
  EXPECT_EQ(spans.at("SA1@0").begin, 5.0);
  EXPECT_EQ(spans.at("SA2@0").begin, 9.0);
  EXPECT_EQ(spans.at("F2@1").begin, 13.0);
}

TEST(Simulate, RefusesWhatCannotRun) {
  const Layout layout = plain_layout(2, 1);
  EXPECT_THROW(simulate(parse_schedule("F0@0 SA0@0 B0@0 RG0@0\nRA0@1 F0@1 B0@1 SG0@1"), layout, equal_times), std::runtime_error);
}

int held(const SlabCounts& counts, Hold what) { return counts[static_cast<std::size_t>(what)]; }

TEST(PeakSlabs, OneFOneBKeepsWhatIsInFlightAndOneMessageMore) {
  for (int stages : {1, 2, 4, 8}) {
    for (int microbatches : {1, 2, 4, 11}) {
      Layout layout = plain_layout(stages, microbatches);
      layout.exits = {{0, 1}, {0, 1}, {stages - 1, 50}};
      const auto peaks = peak_slabs(build_schedule("1f1b", layout), layout);
      for (int s = 0; s < stages; ++s) {
        const SlabCounts& counts = peaks[static_cast<std::size_t>(s)];
        const int in_flight = std::min(stages - s, microbatches);
        EXPECT_EQ(held(counts, Hold::Stash), in_flight);
        EXPECT_EQ(held(counts, Hold::Input), s == 0 ? 0 : std::min(in_flight + 1, microbatches));
        EXPECT_EQ(held(counts, Hold::Output), s < stages - 1 ? 1 : 0);
        EXPECT_LE(held(counts, Hold::Gradient), 2);
      }
      const int on_first = std::min(stages, microbatches), both = stages == 1 ? 1 : 0;
      EXPECT_EQ(held(peaks[0], Hold::Tap), on_first * (1 + both));
      EXPECT_EQ(held(peaks[0], Hold::TapGradient), 2 + both) << "exits run right before their backward";
    }
  }
}

TEST(PeakSlabs, GpipeKeepsEverything) {
  Layout layout = plain_layout(3, 5);
  layout.exits = {{1, 10}};
  const auto peaks = peak_slabs(build_schedule("gpipe", layout, Placement::after_forward), layout);
  EXPECT_EQ(peaks[1], (SlabCounts{5, 5, 0, 5, 1, 5, 2}));
}

TEST(PeakSlabs, EvaluationKeepsNothing) {
  Layout layout = plain_layout(3, 5);
  layout.backward = false;
  layout.exits = {{1, 10}, {1, 11, true}, {2, 20}};
  const auto peaks = peak_slabs(build_schedule("1f1b", layout), layout);
  EXPECT_EQ(peaks[0], (SlabCounts{0, 0, 0, 0, 1, 0, 0}));
  EXPECT_EQ(peaks[1], (SlabCounts{1, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(peaks[2], (SlabCounts{1, 0, 0, 1, 0, 0, 0}));
}

}  // namespace
}  // namespace offramp
