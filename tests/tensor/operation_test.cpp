// What surrounds every operation: counting in plan mode, progress of messages, timing where there is a profile.
#include "tensor/operation.h"

#include <thread>

#include "registry.h"

namespace offramp::testing {
namespace {

struct Adding {
  Arena arena{Backing::host, 1 << 16};
  Context context = context_over(arena);
  Tensor x = arena.tensor({3, 4}, DType::f32), y = arena.tensor({3, 4}, DType::f32);
  void run() { add(context, y, x); }
};

TEST(Profile, CountsWhatThePlanCounts) {
  Adding adding;
  fill_zero(adding.context, adding.x), fill_zero(adding.context, adding.y);
  Meter meter;
  adding.context.meter = &meter;
  adding.run();
  adding.context.meter = nullptr;
  Profile profile;
  adding.context.profile = &profile;
  adding.run(), adding.run();
  const Profile::Entry& entry = profile.operations.at("add");
  EXPECT_EQ(entry.calls, 2);
  EXPECT_EQ(entry.cost.flops, 2 * meter.total.flops);
  EXPECT_EQ(entry.cost.bytes, 2 * meter.total.bytes);
  EXPECT_EQ(meter.total.bytes, 3 * 12 * 4.0);
  EXPECT_GT(entry.seconds, 0);
}

TEST(Profile, IsNotTouchedByAPlan) {
  Adding adding;
  Meter meter;
  Profile profile;
  adding.context.meter = &meter, adding.context.profile = &profile;
  adding.run();
  EXPECT_TRUE(profile.operations.empty());
  EXPECT_EQ(meter.operations.count("add"), 1u);
}

TEST(Profile, MeasuresUntilTheEndOfTheScope) {
  Adding adding;
  Profile profile;
  adding.context.profile = &profile;
  const auto wait = std::chrono::milliseconds(20);
  {
    const Operation op(adding.context, "waiting", {.flops = 3, .bytes = 5});
    EXPECT_FALSE(op.planned());
    std::this_thread::sleep_for(wait);
  }
  EXPECT_GE(profile.operations.at("waiting").seconds, std::chrono::duration<double>(wait).count());
  EXPECT_EQ(profile.operations.at("waiting").cost.flops, 3);
}

// A peer's failure comes out of it.
TEST(Operation, LetsMessagesProgressBeforeItRuns) {
  Adding adding;
  Activity activity;
  int ticks = 0;
  adding.context.activity = &activity;
  adding.context.tick = [&] { ++ticks; };
  adding.run(), adding.run();
  EXPECT_EQ(ticks, 2);
  EXPECT_EQ(activity.beats(), 2u);
  Meter meter;
  adding.context.meter = &meter;
  adding.run();
  EXPECT_EQ(ticks, 2) << "a plan has no messages";
  adding.context.meter = nullptr;
  fill_zero(adding.context, adding.y);
  adding.context.tick = [] { fail(Exit::communication, "a peer is gone"); };
  EXPECT_THROW(adding.run(), Error);
}

}  // namespace
}  // namespace offramp::testing
