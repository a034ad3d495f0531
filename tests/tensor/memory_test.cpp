// Tensors, arenas, pools, errors: the ground that operations stand on.
#include <gtest/gtest.h>

#include "tensor/check.h"
#include "tensor/context.h"
#include "tensor/ops.h"

namespace offramp {
namespace {

std::string message_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

Exit code_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code;
  }
  return Exit::ok;
}

// ---- tensors

TEST(Tensor, IsRowMajor) {
  float data[24];
  const Tensor t(data, {2, 3, 4}, DType::f32);
  EXPECT_EQ(t.stride[0], 12);
  EXPECT_EQ(t.stride[1], 4);
  EXPECT_EQ(t.stride[2], 1);
  EXPECT_EQ(t.bytes(), sizeof data);
  EXPECT_TRUE(t.contiguous());
  EXPECT_EQ(to_text(t.shape), "[2, 3, 4]");
  EXPECT_EQ(to_text(Shape{}), "[]");
}

TEST(Shape, HasAtMostFourDimensions) {
  static_assert(Shape{2, 3, 4, 5}.elements() == 120);
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), std::length_error);
}

TEST(Tensor, NarrowIsAView) {
  float data[24];
  const Tensor t(data, {4, 6}, DType::f32);
  const Tensor columns = t.narrow(1, 2, 3), rows = t.narrow(0, 1, 2);
  EXPECT_EQ(columns.as<float>(), data + 2);
  EXPECT_EQ(columns.shape, (Shape{4, 3}));
  EXPECT_EQ(columns.stride[0], 6);
  EXPECT_FALSE(columns.contiguous());
  EXPECT_EQ(rows.as<float>(), data + 6);
  EXPECT_TRUE(rows.contiguous());
  EXPECT_TRUE(t.narrow(1, 2, 3).narrow(0, 3, 1).contiguous()) << "one row has no stride";
  EXPECT_THROW(t.narrow(1, 4, 3), Error);
  EXPECT_THROW(t.narrow(2, 0, 1), Error);
  EXPECT_THROW(t.narrow(0, -1, 1), Error);
}

TEST(Tensor, ReshapeKeepsStridesWhereItCan) {
  float data[48];
  const Tensor t(data, {4, 12}, DType::f32);
  EXPECT_EQ(t.reshape({2, 24}).shape, (Shape{2, 24}));
  const Tensor part = t.narrow(1, 0, 6).reshape({2, 2, 3, 2});
  EXPECT_EQ(part.stride, (std::array<std::int64_t, 4>{24, 12, 2, 1}));
  EXPECT_EQ(part.as<float>(), data);
  EXPECT_EQ(t.narrow(1, 5, 1).reshape({4}).stride[0], 12);
  EXPECT_EQ(t.narrow(1, 5, 1).reshape({2, 1, 2}).stride[0], 24);
  EXPECT_THROW(t.narrow(1, 0, 6).reshape({24}), Error);
  EXPECT_THROW(t.narrow(1, 0, 6).reshape({3, 8}), Error);
  EXPECT_THROW(t.reshape({7, 7}), Error);
}

TEST(Tensor, UndefinedStaysUndefined) {
  const Tensor t;
  EXPECT_FALSE(t.defined());
  EXPECT_FALSE(t.narrow(0, 3, 5).defined());
  EXPECT_FALSE(t.reshape({4, 4}).defined());
}

TEST(Tensor, RefusesTheWrongType) {
  std::int32_t data[2];
  const Tensor t(data, {2}, DType::i32);
  EXPECT_EQ(t.as<std::int32_t>(), data);
  EXPECT_THROW(t.as<float>(), Error);
  EXPECT_THROW(t.as<double>(), Error);
}

// ---- arenas

TEST(Arena, AlignsAndZeroes) {
  Arena arena(Backing::host, 4096);
  const Tensor a = arena.tensor({3}, DType::f32), b = arena.tensor({5}, DType::f64);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % kAlignment, 0u);
  EXPECT_EQ(b.data - a.data, static_cast<std::ptrdiff_t>(kAlignment));
  for (std::size_t i = 0; i < arena.capacity(); ++i) ASSERT_EQ(arena.memory()[i], std::byte{0});
}

TEST(Arena, RemembersItsPeakAndItsLargestRequest) {
  Arena arena(Backing::host, 4096);
  arena.bytes(100);
  const std::size_t mark = arena.mark();
  arena.bytes(1000);
  arena.release(mark);
  arena.bytes(10);
  EXPECT_EQ(arena.used(), 128u + 64u);
  EXPECT_EQ(arena.peak(), 128u + 1024u);
  EXPECT_EQ(arena.largest(), 1000u);
  arena.reset();
  EXPECT_EQ(arena.used(), 0u);
}

// A destructor releases: a mark that is no longer in use must neither throw nor take anything.
TEST(Arena, ReleaseNeverTakes) {
  static_assert(noexcept(std::declval<Arena&>().release(0)));
  Arena arena(Backing::host, 4096);
  arena.bytes(64);
  arena.release(128);
  EXPECT_EQ(arena.used(), 64u);
}

TEST(Arena, SaysByHowMuchItIsFull) {
  Arena arena(Backing::host, 128);
  arena.bytes(64);
  EXPECT_EQ(code_of([&] { arena.bytes(65); }), Exit::internal);
  const std::string message = message_of([&] { arena.bytes(65); });
  for (const char* part : {"65 bytes", "64 of 128"}) EXPECT_NE(message.find(part), std::string::npos) << message;
  arena.bytes(64);
  Arena whole(Backing::none, kUnlimited);
  EXPECT_THROW(whole.bytes(static_cast<std::size_t>(-1)), Error);
}

TEST(Arena, PartOfAnotherOwnsNothing) {
  Arena whole(Backing::host, 1024);
  {
    Arena part(whole.bytes(256), 256, "slab");
    EXPECT_EQ(part.bytes(1), whole.memory());
    const std::string message = message_of([&] { part.bytes(1000); });
    EXPECT_NE(message.find("slab"), std::string::npos) << message;
  }
  whole.memory()[0] = std::byte{1};
  EXPECT_THROW(Arena(whole.memory() + 1, 64, "crooked"), Error);
}

TEST(Arena, MoreThanTheHostHasIsTheUsersMistake) {
  const auto greedy = [] { Arena arena(Backing::host, std::size_t{1} << 50); };
  EXPECT_EQ(code_of(greedy), Exit::memory);
  const std::string message = message_of(greedy);
  for (const char* part : {"1125899906842624", "micro_batch_size"}) EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Arena, MoreThanCanBePlannedIsTheUsersMistake) {
  Arena plan(Backing::none, kUnlimited);
  plan.bytes(kUnlimited - 64);
  EXPECT_EQ(code_of([&] { plan.bytes(128); }), Exit::memory);
  EXPECT_EQ(code_of([] { Arena(Backing::none, kUnlimited).tensor({1 << 30, 1 << 30, 4}, DType::f32); }), Exit::memory);  // 2^64 bytes
}

TEST(Arena, CountsWhatTheSystemWasAskedFor) {
  const std::size_t before = system_allocations();
  Arena host(Backing::host, 4096), none(Backing::none, kUnlimited), empty(Backing::host, 0);
  Arena part(host.bytes(64), 64, "part");
  host.tensor({4}, DType::f32);
  EXPECT_EQ(system_allocations(), before + 1);
}

TEST(Arena, MovesItsMemory) {
  Arena a(Backing::host, 4096), c;
  a.bytes(64);
  std::byte* const memory = a.memory();
  Arena b = std::move(a);
  c = std::move(b);
  for (Arena* empty : {&a, &b}) {
    EXPECT_EQ(empty->memory(), nullptr);
    EXPECT_EQ(empty->capacity() + empty->used() + empty->peak() + empty->largest(), 0u);
    EXPECT_THROW(empty->bytes(1), Error);
  }
  EXPECT_EQ(c.memory(), memory);
  EXPECT_EQ(c.used(), 64u);
  c.memory()[4095] = std::byte{1};
}

TEST(ArenaDeathTest, NothingIsBehindAPlan) {
  Arena arena(Backing::none, kUnlimited);
  arena.bytes(12345);
  const Tensor t = arena.tensor({4}, DType::f32);
  EXPECT_DEATH(t.as<float>()[0] = 1, "");
  EXPECT_DEATH(std::printf("%f", static_cast<double>(*t.as<float>())), "");
  EXPECT_DEATH(arena.tensor({1024}, DType::f32).narrow(0, 1000, 1).as<float>()[0] = 1, "");
}

TEST(Scratch, GivesBackAtTheEndOfTheScope) {
  Arena arena(Backing::host, 4096);
  Context context;
  context.scratch = &arena;
  {
    Scratch outer(context);
    outer.tensor({16}, DType::f32);
    {
      Scratch inner(context);
      inner.tensor({16}, DType::f32);
      EXPECT_EQ(arena.used(), 128u);
    }
    EXPECT_EQ(arena.used(), 64u);
  }
  EXPECT_EQ(arena.used(), 0u);
}

// ---- pools

TEST(Pool, HandsOutTheLowestFreeSlab) {
  Arena arena(Backing::host, 4096);
  Pool pool(arena, "stash", 100, 3);
  EXPECT_EQ(pool.slab_bytes(), 128u);
  EXPECT_EQ(arena.used(), 3 * 128u);
  EXPECT_EQ(pool.take(), 0);
  EXPECT_EQ(pool.take(), 1);
  pool.give(0);
  EXPECT_EQ(pool.take(), 0);
  EXPECT_EQ(pool.peak(), 2);
  EXPECT_EQ(pool.take(), 2);
  EXPECT_EQ(pool.peak(), 3);
  EXPECT_EQ(pool.memory(2), arena.memory() + 256);
}

TEST(Pool, RefusesWhatTheScheduleExcluded) {
  Arena arena(Backing::none, kUnlimited);
  Pool pool(arena, "stash", 64, 1);
  EXPECT_THROW(pool.give(0), Error);
  pool.take();
  const std::string message = message_of([&] { pool.take(); });
  EXPECT_NE(message.find("stash"), std::string::npos) << message;
  EXPECT_THROW(pool.give(1), Error);
  EXPECT_THROW(pool.give(-1), Error);
  pool.give(0);
  EXPECT_THROW(pool.give(0), Error);
  EXPECT_THROW(pool.memory(1), Error);
}

// ---- errors

TEST(Check, SaysWhatAndWhere) {
  const auto check = [] { OFFRAMP_CHECK(1 + 1 == 3, "[sum] {} is not {}", 2, 3); };
  EXPECT_EQ(code_of(check), Exit::internal);
  const std::string message = message_of(check);
  for (const char* part : {"[sum] 2 is not 3", "1 + 1 == 3", "memory_test.cpp"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  OFFRAMP_CHECK(true, "not evaluated {}", 0);
}

TEST(Check, FailCarriesTheExitCode) {
  const auto action = [] { fail(Exit::data, "{}: token {}", "file", 7); };
  EXPECT_EQ(code_of(action), Exit::data);
  EXPECT_EQ(message_of(action), "file: token 7");
}

TEST(Check, OperationsNameTheDisagreement) {
  Arena arena(Backing::none, kUnlimited);
  Meter meter;
  Context context;
  context.scratch = &arena;
  context.meter = &meter;
  const Tensor x = arena.tensor({3, 4}, DType::f32), gain = arena.tensor({5}, DType::f32);
  const std::string message = message_of([&] { rms_norm(context, x, {}, x, gain, 1e-5f); });
  for (const char* part : {"[rms_norm]", "gain", "[5]", "[4]"}) EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_TRUE(meter.operations.empty());
}

}  // namespace
}  // namespace offramp
