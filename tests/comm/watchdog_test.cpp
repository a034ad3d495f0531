#include "comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

namespace offramp {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

TEST(Watchdog, EndsAJobThatStandsStill) {
  Activity activity;
  activity.begin("step 12, F3@1");
  activity.wait_for("receive of 8 bytes from pipeline rank 0 (rank 2)");
  std::atomic<bool> ended = false;
  testing::internal::CaptureStderr();
  const auto start = Clock::now();
  double after = 0;
  {
    const Watchdog watchdog(activity, {.timeout_s = 1, .rank = 3, .grace_s = 0.5, .end_job = [&] { ended = true; }});
    while (!ended && since(start) < 20) sleep_for(0.01);
    after = since(start);
  }
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(ended);
  EXPECT_GE(after, 1.4);  // not before its time, grace included
  EXPECT_EQ(line.find("offramp: rank 3 on "), 0u) << line;
  EXPECT_NE(line.find(": no progress for 1 s: step 12, F3@1, waiting for receive of 8 bytes from pipeline rank 0 (rank 2); raise "
                      "training.timeout_s if this is expected\n"),
            std::string::npos)
      << line;
}

TEST(Watchdog, LetsAJobLiveThatBeats) {
  Activity activity;
  std::atomic<bool> ended = false;
  const Watchdog watchdog(activity, {.timeout_s = 0.5, .grace_s = 0, .end_job = [&] { ended = true; }});
  for (int i = 0; i < 20; ++i) {
    sleep_for(0.05);
    activity.beat();
  }
  EXPECT_FALSE(ended);
}

TEST(Watchdog, WaitingIsNoProgress) {
  Activity activity;
  std::atomic<bool> ended = false;
  testing::internal::CaptureStderr();
  {
    const Watchdog watchdog(activity, {.timeout_s = 0.3, .grace_s = 0, .end_job = [&] { ended = true; }});
    const auto start = Clock::now();
    while (!ended && since(start) < 20) {
      activity.wait_for("somebody");
      sleep_for(0.01);
    }
  }
  testing::internal::GetCapturedStderr();
  EXPECT_TRUE(ended);
}

TEST(Watchdog, StopsAtOnceAlsoDuringTheGrace) {
  Activity activity;
  std::atomic<bool> ended = false;
  testing::internal::CaptureStderr();
  const auto start = Clock::now();
  {
    const Watchdog watchdog(activity, {.timeout_s = 300, .end_job = [&] { ended = true; }});
  }
  EXPECT_LT(since(start), 5);
  {
    const Watchdog watchdog(activity, {.timeout_s = 0.1, .grace_s = 300, .end_job = [&] { ended = true; }});
    sleep_for(0.6);
  }
  EXPECT_LT(since(start), 10);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("no progress"), std::string::npos);
  EXPECT_FALSE(ended);
}

TEST(Watchdog, TheTimeoutMayChangeLater) {
  Activity activity;
  std::atomic<bool> ended = false;
  testing::internal::CaptureStderr();
  {
    Watchdog raised(activity, {.timeout_s = 0.3, .grace_s = 0, .end_job = [&] { ended = true; }});
    raised.set_timeout(300);
    Watchdog off(activity, {.timeout_s = 0.3, .grace_s = 0, .end_job = [&] { ended = true; }});
    off.set_timeout(0);
    sleep_for(0.6);
    EXPECT_FALSE(ended);
    Watchdog lowered(activity, {.timeout_s = 300, .grace_s = 0, .end_job = [&] { ended = true; }});
    lowered.set_timeout(0.2);
    for (const auto start = Clock::now(); !ended && since(start) < 20;) sleep_for(0.01);
    EXPECT_TRUE(ended);
  }
  EXPECT_NE(testing::internal::GetCapturedStderr().find("no progress for 0.2 s"), std::string::npos);
}

TEST(Watchdog, ATimeoutOfZeroIsOff) {
  Activity activity;
  std::atomic<bool> ended = false;
  const Watchdog none(activity, {.timeout_s = 0, .grace_s = 0, .end_job = [&] { ended = true; }});
  const Watchdog negative(activity, {.timeout_s = -1, .grace_s = 0, .end_job = [&] { ended = true; }});
  sleep_for(0.1);
  EXPECT_FALSE(ended);
}

TEST(WatchdogDeath, EndsTheProcessWithTheCodeForCommunication) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const Activity activity;
        const Watchdog watchdog(activity, {.timeout_s = 0.1, .grace_s = 0});
        sleep_for(20);
      },
      testing::ExitedWithCode(7), "no progress for 0.1 s: starting");
}

}  // namespace
}  // namespace offramp
