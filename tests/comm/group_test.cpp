// Groups of one, planned groups, what a Work does, and what operations refuse.
#include "comm/group.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "part_checks.h"

namespace offramp {
namespace {

TEST(GroupOfOne, EveryCollectiveReturnsAtOnceAndChangesNothing) {
  Context ctx;
  const Group alone;
  std::vector<float> x{1.5f, -2.0f};
  EXPECT_TRUE(all_reduce(ctx, tensor_of(x), alone).done());
  EXPECT_TRUE(broadcast(ctx, tensor_of(x), alone, 0).done());
  alone.progress();
  EXPECT_EQ(x, (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(alone.split(3, 1, Wire::data).size(), 1);
}

TEST(GroupOfOne, APartIsTheWhole) {
  Context ctx;
  const std::vector<std::int32_t> numbers{3, -4};
  std::vector<float> x{1.5f, -2.0f}, y(2), z(2);
  std::vector<std::int32_t> in = numbers, out(2);
  EXPECT_TRUE(reduce_scatter(ctx, tensor_of(y), tensor_of(x), Group()).done());
  EXPECT_TRUE(all_gather(ctx, tensor_of(z), tensor_of(y), Group()).done());
  EXPECT_TRUE(all_gather(ctx, tensor_of(out), tensor_of(in), Group()).done());
  EXPECT_TRUE(reduce_scatter(ctx, tensor_of(x), tensor_of(x), Group()).done());
  EXPECT_TRUE(all_gather(ctx, tensor_of(in), tensor_of(in), Group()).done());
  EXPECT_EQ(x, (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(y, x);
  EXPECT_EQ(z, x);
  EXPECT_EQ(in, numbers);
  EXPECT_EQ(out, numbers);
}

TEST(GroupOfOne, AgreeThrowsItsOwnError) {
  Context ctx;
  EXPECT_NO_THROW(agree(ctx, Group(), std::nullopt));
  try {
    agree(ctx, Group(), Error(Exit::configuration, "a.yaml:1:1: no such key"));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    EXPECT_STREQ(error.what(), "a.yaml:1:1: no such key");
  }
}

// What every rank may say alike needs no rank; whatever else goes wrong says where.
TEST(GroupOfOne, AnAgreedErrorNamesRankAndHost) {
  Context ctx;
  try {
    agree(ctx, Group(), Error(Exit::data, "a.bin: offset 3: cut"));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code, Exit::data);
    EXPECT_EQ(error.what(), fmt::format("offramp: rank 0 on {}: a.bin: offset 3: cut", host_name()));
  }
}

class PlannedGroups : public testing::Test {
 protected:
  Meter meter_;
  Context ctx_ = {.meter = &meter_};
  // Plan mode's memory cannot be touched.
  static Tensor untouchable(std::int64_t n, DType dtype) { return {reinterpret_cast<void*>(64), {n}, dtype}; }
};

TEST_F(PlannedGroups, BytesAreCountedByWire) {
  const Group tensor = Group::planned(1, 4, Wire::tensor), pipeline = Group::planned(0, 2, Wire::pipeline),
              data = Group::planned(2, 3, Wire::data);
  EXPECT_EQ(data.rank(), 2);
  EXPECT_EQ(data.size(), 3);
  all_reduce(ctx_, untouchable(1000, DType::f32), tensor).wait(ctx_);
  all_reduce(ctx_, untouchable(8, DType::f64), tensor).wait(ctx_);
  send(ctx_, untouchable(100, DType::f32), pipeline, 1, 0).wait(ctx_);
  receive(ctx_, untouchable(100, DType::f32), pipeline, 1, 0).wait(ctx_);
  broadcast(ctx_, untouchable(10, DType::i32), data, 0).wait(ctx_);
  EXPECT_EQ(meter_.sent_bytes.at("tensor"), 2.0 * 4000 * 3 / 4 + 2.0 * 64 * 3 / 4);
  EXPECT_EQ(meter_.sent_bytes.at("pipeline"), 400.0);
  EXPECT_EQ(meter_.sent_bytes.at("data"), 40.0);
  EXPECT_EQ(meter_.sent_bytes.count("control"), 0u);
}

TEST_F(PlannedGroups, PartsCountHalfOfASum) {
  const Group tensor = Group::planned(1, 4, Wire::tensor), data = Group::planned(2, 3, Wire::data);
  reduce_scatter(ctx_, untouchable(250, DType::f32), untouchable(1000, DType::f32), tensor).wait(ctx_);
  EXPECT_EQ(meter_.sent_bytes.at("tensor"), 4000.0 * 3 / 4);
  all_gather(ctx_, untouchable(300, DType::bf16), untouchable(100, DType::bf16), data).wait(ctx_);
  EXPECT_EQ(meter_.sent_bytes.at("data"), 600.0 * 2 / 3);
  all_reduce(ctx_, untouchable(300, DType::bf16), data).wait(ctx_);
  EXPECT_EQ(meter_.sent_bytes.at("data"), 3 * 600.0 * 2 / 3);
}

TEST_F(PlannedGroups, AGroupOfOneSendsNothing) {
  reduce_scatter(ctx_, untouchable(10, DType::f32), untouchable(10, DType::f32), Group::planned(0, 1, Wire::tensor)).wait(ctx_);
  all_gather(ctx_, untouchable(20, DType::f32), untouchable(20, DType::f32), Group::planned(0, 1, Wire::tensor)).wait(ctx_);
  all_reduce(ctx_, untouchable(1000, DType::f32), Group::planned(0, 1, Wire::tensor)).wait(ctx_);
  EXPECT_TRUE(meter_.sent_bytes.empty());
}

TEST_F(PlannedGroups, WithoutAMeterTheyRefuse) {
  Context ctx;
  std::vector<float> x(2);
  EXPECT_THROW((void)all_reduce(ctx, tensor_of(x), Group::planned(0, 2, Wire::data)), Error);
}

// What a caller of any transport may not do; checked in plan mode as well, where it is found before a job starts.
TEST_F(PlannedGroups, WrongArgumentsAreRefused) {
  const Group pair = Group::planned(0, 2, Wire::data);
  const Tensor fine = untouchable(8, DType::f32);
  Tensor strided = Tensor(reinterpret_cast<void*>(64), {4, 4}, DType::f32).narrow(1, 0, 2);
  EXPECT_THROW((void)all_reduce(ctx_, Tensor(), pair), Error);
  EXPECT_THROW((void)all_reduce(ctx_, strided, pair), Error);
  EXPECT_THROW((void)all_reduce(ctx_, untouchable(8, DType::i32), pair), Error);
  EXPECT_THROW((void)broadcast(ctx_, fine, pair, 2), Error);
  EXPECT_THROW((void)send(ctx_, fine, pair, 0, 0), Error) << "to itself";
  EXPECT_THROW((void)send(ctx_, fine, pair, 2, 0), Error);
  EXPECT_THROW((void)receive(ctx_, fine, pair, -1, 0), Error);
  EXPECT_THROW((void)receive(ctx_, fine, pair, 1, -1), Error);
  EXPECT_THROW((void)Group::planned(2, 2, Wire::data), Error);
}

template <class F>
std::string refusal(F work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(PlannedGroups, PartsThatDoNotFitAreRefused) {
  const Group three = Group::planned(0, 3, Wire::data);
  const Tensor part = untouchable(5, DType::f32), whole = untouchable(16, DType::f32);
  const auto has = [](const std::string& text, const char* words) { return text.find(words) != std::string::npos; };
  const std::string scattered = refusal([&] { (void)reduce_scatter(ctx_, part, whole, three); });
  const std::string gathered = refusal([&] { (void)all_gather(ctx_, whole, part, three); });
  EXPECT_TRUE(has(scattered, "[reduce_scatter] 3 parts of 5 elements are not 16 elements")) << scattered;
  EXPECT_TRUE(has(gathered, "[all_gather] 3 parts of 5 elements are not 16 elements")) << gathered;
  EXPECT_THROW((void)reduce_scatter(ctx_, part, whole, Group()), Error) << "alone";
  const std::string types = refusal([&] { (void)all_gather(ctx_, untouchable(15, DType::bf16), part, three); });
  EXPECT_TRUE(has(types, "[all_gather] a part of f32 and a whole of bf16")) << types;
  const std::string whole_numbers =
      refusal([&] { (void)reduce_scatter(ctx_, untouchable(5, DType::i32), untouchable(15, DType::i32), three); });
  EXPECT_TRUE(has(whole_numbers, "[reduce_scatter] of i32, not f32, f64 or bf16")) << whole_numbers;
  EXPECT_THROW((void)reduce_scatter(ctx_, Tensor(), whole, three), Error);
  EXPECT_THROW((void)all_gather(ctx_, Tensor(), part, three), Error);
}

// Done after some tests; notes what the activity said while it waited.
struct Countdown : Work::State {
  Countdown(int tests, const Activity* watched, std::vector<std::string>* seen) : left(tests), activity(watched), texts(seen) {
    what = "the count";
  }
  bool test() override {
    if (activity) texts->push_back(activity->text());
    return left-- == 0;
  }
  void pause(double) override {}
  int left;
  const Activity* activity;
  std::vector<std::string>* texts;
};

TEST(Work, WaitTellsTheActivityAndIsNoProgress) {
  Activity activity;
  Context ctx;
  ctx.activity = &activity;
  activity.begin("step 1");
  const auto beats = activity.beats();
  std::vector<std::string> seen;
  Work work(std::make_unique<Countdown>(2, &activity, &seen));
  work.wait(ctx);
  EXPECT_EQ(activity.beats(), beats);
  EXPECT_EQ(seen, (std::vector<std::string>{"step 1", "step 1, waiting for the count", "step 1, waiting for the count"}));
  EXPECT_EQ(activity.text(), "step 1");
  EXPECT_TRUE(work.done());
}

// Notes how long nothing had moved at each pause. Something moves with each of the first tests.
struct Mover : Work::State {
  explicit Mover(std::vector<double>* pauses) : still(pauses) {}
  bool test() override { return ++tests == 40; }
  std::uint64_t moved() const override { return static_cast<std::uint64_t>(std::min(tests, kStillFrom)); }
  void pause(double still_s) override {
    still->push_back(still_s);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  static constexpr int kStillFrom = 20;
  int tests = 0;
  std::vector<double>* still;
};

TEST(Work, TheTimeStandingStillBeginsAnewWhenSomethingMoves) {
  Context ctx;
  std::vector<double> still;
  Work(std::make_unique<Mover>(&still)).wait(ctx);
  ASSERT_EQ(still.size(), 38u);  // after the tests 2 to 39
  for (int i = 0; i <= Mover::kStillFrom - 2; ++i) EXPECT_EQ(still[static_cast<std::size_t>(i)], 0) << "pause " << i;
  EXPECT_GE(still.back(), 2e-3 * (39 - Mover::kStillFrom));
}

TEST(Work, IsWaitedForWhenItGoesAwayOrIsReplaced) {
  std::vector<std::string> seen;
  Activity activity;
  { const Work work(std::make_unique<Countdown>(3, &activity, &seen)); }
  EXPECT_EQ(seen.size(), 4u);
  Work work(std::make_unique<Countdown>(1, &activity, &seen));
  work = Work();
  EXPECT_EQ(seen.size(), 6u);
  Work moved(std::make_unique<Countdown>(0, &activity, &seen));
  Work target = std::move(moved);
  EXPECT_TRUE(moved.done());  // NOLINT: an empty Work is done
  EXPECT_TRUE(target.done());
  EXPECT_EQ(seen.size(), 7u);
}

TEST(Work, IsGivenUpWhileAnExceptionUnwinds) {
  std::vector<std::string> seen;
  Activity activity;
  EXPECT_THROW(
      {
        const Work never(std::make_unique<Countdown>(-1, &activity, &seen));
        throw std::out_of_range("far");
      },
      std::out_of_range);
  EXPECT_TRUE(seen.empty());
}

}  // namespace
}  // namespace offramp
