#include "parallel/trace.h"

#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/kind.h"

namespace offramp {
namespace {

TEST(Kind, EveryOperationHasOneThatItsTextTellsToo) {
  for (std::size_t i = 0; i < kOps; ++i) {
    const Op op = static_cast<Op>(i);
    const std::string text = to_text(make_action(op, 1, 2, 0));
    EXPECT_EQ(op_of(text), op) << text;
    EXPECT_EQ(kind_of(text), kind_of(op)) << text;
    EXPECT_EQ(kind_of(op) == Kind::communication, is_message(op) || op == Op::ReduceTied) << text;
    const bool exit = op == Op::Exit || (is_head(op) && !is_message(op));
    EXPECT_EQ(kind_of(op) == Kind::exit, exit) << text;
  }
  EXPECT_EQ(kind_of("B7.1@0"), Kind::backward);
  EXPECT_EQ(kind_of("HT0.2@3"), Kind::communication);
  EXPECT_EQ(kind_of("H0.2@3"), Kind::exit);
  for (const char* none : {"", "Q1@0", "F", "update", "7"}) EXPECT_EQ(op_of(none), std::nullopt) << none;
  EXPECT_EQ(kind_of("update"), Kind::communication);
}

TEST(Kind, LooksDiffer) {
  for (const Kind a : kKinds) {
    for (const Kind b : kKinds) {
      EXPECT_EQ(color_of(a) == color_of(b), a == b);
      EXPECT_EQ(chrome_of(a) == chrome_of(b), a == b);
      EXPECT_EQ(name_of(a) == name_of(b), a == b);
    }
  }
}

TEST(Trace, EventsSayWhatWhenAndHowLongItWaited) {
  const Trace trace = {{"F0@0", 0, 1, 1.5, 0, 0.25}, {"D1@0", 2, 1.5, 2, 64}};
  EXPECT_EQ(chrome_trace(trace_events(trace, 3)),
            "{\"traceEvents\":[{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":3,\"args\":{\"name\":\"rank 3\"}},"
            "{\"name\":\"F0@0\",\"cat\":\"forward\",\"cname\":\"thread_state_runnable\",\"ph\":\"X\",\"pid\":3,\"tid\":0,"
            "\"ts\":1000000.0,\"dur\":500000.0,\"args\":{\"waited\":250000.0}},"
            "{\"name\":\"D1@0\",\"cat\":\"gradients\",\"cname\":\"bad\",\"ph\":\"X\",\"pid\":3,\"tid\":2,"
            "\"ts\":1500000.0,\"dur\":500000.0,\"args\":{\"bytes\":64}}]}\n");
  EXPECT_EQ(chrome_trace(""), "{\"traceEvents\":[]}\n");
}

TEST(Trace, OfATimelineKeepsWhatTravelsApart) {
  const Layout layout = test::plain_layout(2, 2);
  const Timeline timeline = simulate(build_schedule("1f1b", layout), layout, [](const Action&) { return 1.0; });
  std::size_t events = 0;
  for (int rank = 0; rank < 2; ++rank) {
    double end = 0;
    for (const TraceEvent& e : trace_of(timeline, rank)) {
      ++events;
      EXPECT_EQ(e.lane > 0, is_send(*op_of(e.name))) << e.name;
      if (e.lane > 0) continue;
      EXPECT_GE(e.begin, end) << e.name;  // one after the other
      end = e.end;
    }
  }
  EXPECT_EQ(events, timeline.spans.size());
}

}  // namespace
}  // namespace offramp
