#include "trainer/compare_trace.h"

#include <gtest/gtest.h>

#include "parallel/trace.h"
#include "tensor/check.h"

namespace offramp {
namespace {

Timeline small_timeline() {
  Timeline timeline;
  timeline.seconds = 8;
  timeline.busy = {6, 5};
  timeline.spans = {{{Op::Forward, 0, 0}, 0, 0, 2},  {{Op::SendActivation, 0, 0}, 0, 2, 3}, {{Op::Forward, 1, 0}, 1, 3, 4},
                    {{Op::Backward, 1, 0}, 1, 4, 8}, {{Op::Exit, 0, 0, 0}, 0, 2, 4},        {{Op::Backward, 0, 0}, 0, 4, 6}};
  return timeline;
}

// Two steps of two pipeline ranks in two replicas: world ranks 0 and 1, then 2 and 3, which are slower and do not count.
std::string made_up_trace() {
  std::string events;
  for (int world = 0; world < 4; ++world) {
    Trace trace;
    const double slower = world < 2 ? 1 : 10;
    for (const double start : {100.0, 200.0}) {
      const double late = start == 100 ? 0 : 1;  // the second step's backward takes a second more
      if (world % 2 == 0) {
        trace.push_back({"F0@0", 0, start, start + 2 * slower});
        trace.push_back({"SA0@0", 0, start + 2, start + 2.5});
        trace.push_back({"X0.0@0", 0, start + 3, start + 5});
        trace.push_back({"B0@0", 0, start + 5, start + 9 + late, 0, 2});
        trace.push_back({"D0@0", 1, start + 5, start + 50, 64});
      } else {
        trace.push_back({"RA0@1", 0, start, start});
        trace.push_back({"F0@1", 0, start, start + 4, 0, 3});
        trace.push_back({"B0@1", 0, start + 4, start + 8});
      }
    }
    events += trace_events(trace, world);
  }
  return chrome_trace(events);
}

double of(const RankSeconds& rank, Kind kind) { return rank.of[static_cast<std::size_t>(kind)]; }

TEST(CompareTrace, StepsAreAveragedAndTheFirstReplicaCounts) {
  const Measured measured = measured_of(made_up_trace(), "trace.json", 2);
  EXPECT_EQ(measured.steps, 2);
  EXPECT_NEAR(measured.step_s, 9.5, 1e-6);  // written in tenths of a microsecond
  ASSERT_EQ(measured.ranks.size(), 2u);
  EXPECT_NEAR(of(measured.ranks[0], Kind::forward), 2, 1e-6);
  EXPECT_NEAR(of(measured.ranks[0], Kind::exit), 2, 1e-6);
  EXPECT_NEAR(of(measured.ranks[0], Kind::backward), 2.5, 1e-6);
  EXPECT_NEAR(of(measured.ranks[0], Kind::communication), 0.5, 1e-6);
  EXPECT_EQ(of(measured.ranks[0], Kind::gradients), 0);
  EXPECT_NEAR(measured.ranks[0].waiting, 9.5 - 7, 1e-6);
  EXPECT_NEAR(of(measured.ranks[1], Kind::forward), 1, 1e-6);
  EXPECT_NEAR(measured.ranks[1].waiting, 9.5 - 5, 1e-6);
}

TEST(CompareTrace, TheTableNamesTheLargestDisagreement) {
  const std::string text = comparison_text(small_timeline(), measured_of(made_up_trace(), "trace.json", 2));
  EXPECT_NE(text.find("    0  forward                2000.000       2000.000         +0.000    1.000\n"), std::string::npos) << text;
  EXPECT_NE(text.find("       step                   8000.000       9500.000      +1500.000    1.188\n"), std::string::npos) << text;
  EXPECT_NE(text.find("largest disagreement: waiting of rank 1, 1500.000 ms more than predicted\n"), std::string::npos) << text;
}

// What is predicted, written as if it had been measured, agrees with itself.
TEST(CompareTrace, APredictedTraceAgreesWithItsTimeline) {
  const Timeline timeline = small_timeline();
  const Measured predicted = predicted_of(timeline);
  const Measured measured = measured_of(timeline_chrome_trace(timeline), "trace.json", 2);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    for (const Kind kind : kKinds) EXPECT_NEAR(of(measured.ranks[rank], kind), of(predicted.ranks[rank], kind), 1e-6);
  }
}

TEST(CompareTrace, WhatIsNoTraceIsRefused) {
  const auto error_of = [](const std::string& json) -> std::string {
    try {
      measured_of(json, "t.json", 2);
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::configuration);
      return e.what();
    }
    return "";
  };
  const auto one = [](const std::string& event) { return R"({"traceEvents":[)" + event + "]}"; };
  EXPECT_NE(error_of("[").find("t.json: is no JSON"), std::string::npos);
  EXPECT_NE(error_of("[]").find("has no list \"traceEvents\""), std::string::npos);
  EXPECT_NE(error_of(one("7")).find("an event is no object"), std::string::npos);
  EXPECT_NE(error_of(one(R"({"ph":"X","tid":0,"pid":"a"})")).find("no number \"pid\""), std::string::npos);
  EXPECT_NE(error_of(one(R"({"ph":"X","tid":0,"pid":0,"name":3})")).find("no name"), std::string::npos);
  EXPECT_NE(error_of(one(R"({"ph":"X","tid":0,"pid":0,"name":"F0@0","ts":-1,"dur":1})")).find("\"ts\" is no time"), std::string::npos);
  EXPECT_NE(error_of(one(R"({"ph":"X","tid":0,"pid":0,"name":"F0@0","ts":1,"dur":1})")).find("nothing of pipeline rank 1 of 2"),
            std::string::npos);
  EXPECT_THROW(read_trace("no/such/trace.json", 2), Error);
}

}  // namespace
}  // namespace offramp
