// Pieces, runs and initial values.
#include "models/parameter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "models/layers.h"
#include "tensor/check.h"

namespace offramp::testing {
namespace {

using Pairs = std::map<std::int64_t, std::int64_t>;  // logical element to place in the parameter

// Every element by the definition in parameter.h.
Pairs enumerate(const Piece& p) {
  Pairs all;
  const auto& a = p.axes;
  for (std::int64_t i = 0; i < a[0].count; ++i)
    for (std::int64_t j = 0; j < a[1].count; ++j)
      for (std::int64_t k = 0; k < a[2].count; ++k)
        for (std::int64_t l = 0; l < a[3].count; ++l) {
          const auto at = [&](std::int64_t Axis::*s) { return i * a[0].*s + j * a[1].*s + k * a[2].*s + l * a[3].*s; };
          all[p.global_first + at(&Axis::global_stride)] = p.local_first + at(&Axis::local_stride);
        }
  return all;
}

std::int64_t random(std::uint64_t seed, std::uint64_t index, std::int64_t below) {
  return static_cast<std::int64_t>(bits({.seed = seed}, index) % static_cast<std::uint64_t>(below));
}

// Strides of nested axes in a random order of nesting, with gaps or without.
void nest(std::uint64_t seed, Piece& p, std::int64_t Axis::*stride) {
  std::array<std::size_t, 4> order{0, 1, 2, 3};
  for (std::size_t i = 3; i > 0; --i)
    std::swap(order[i], order[static_cast<std::size_t>(random(seed, i, static_cast<std::int64_t>(i) + 1))]);
  std::int64_t step = random(seed, 10, 4) == 0 ? 2 : 1;
  for (const std::size_t axis : order) {
    p.axes[axis].*stride = step;
    step = step * p.axes[axis].count + (random(seed, 20 + axis, 3) == 0 ? random(seed, 30 + axis, 5) : 0);
  }
}

Piece random_piece(std::uint64_t seed) {
  Piece p{.name = "random", .global = {1 << 20}, .global_first = random(seed, 100, 50), .local_first = random(seed, 101, 50)};
  for (std::size_t i = 0; i < 4; ++i) p.axes[i].count = 1 + random(seed, 40 + i, 4);
  nest(2 * seed, p, &Axis::global_stride);
  if (random(seed, 102, 2) == 0) {
    nest(2 * seed + 1, p, &Axis::local_stride);
  } else {  // much of it dense on both sides
    for (Axis& axis : p.axes) axis.local_stride = axis.global_stride;
  }
  return p;
}

void check_runs(const Piece& piece, std::int64_t begin, std::int64_t end) {
  Pairs expected, seen;
  for (const auto& [global, local] : enumerate(piece)) {
    if (local >= begin && local < end) expected[global] = local;
  }
  offramp::Run last{.local = -1, .global = -1, .count = 0};
  runs(piece, begin, end, [&](const auto& run) {
    ASSERT_GT(run.count, 0);
    ASSERT_GE(run.global, last.global + last.count) << "in logical order";
    ASSERT_FALSE(run.global == last.global + last.count && run.local == last.local + last.count) << "maximal";
    last = run;
    for (std::int64_t i = 0; i < run.count; ++i) ASSERT_TRUE(seen.emplace(run.global + i, run.local + i).second) << "twice";
  });
  ASSERT_EQ(seen, expected);
}

TEST(Runs, AgreeWithTheDefinition) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    const Piece piece = random_piece(seed);
    ASSERT_EQ(static_cast<std::int64_t>(enumerate(piece).size()), piece.elements());
    check_runs(piece, 0, 1 << 20);
    const std::int64_t begin = random(seed, 200, 200);
    check_runs(piece, begin, begin + random(seed, 201, 200));
    if (HasFatalFailure()) return;
  }
}

TEST(Runs, ShardsCoverAParameterOnce) {
  const Piece piece = random_piece(5);
  std::int64_t covered = 0;
  for (std::int64_t begin = 0; begin < 4096; begin += 37) {
    runs(piece, begin, begin + 37, [&](const auto& run) { covered += run.count; });
  }
  EXPECT_EQ(covered, piece.elements());
}

TEST(Runs, JoinWhatIsDense) {
  const auto count = [](const Piece& p) {
    int n = 0;
    runs(p, [&](const auto&) { ++n; });
    return n;
  };
  EXPECT_EQ(count(whole("w", {12, 7})), 1);
  Piece rows = whole("w", {12, 7});
  rows.axes = {Axis{12, 7, 7}, Axis{7, 1, 1}};
  EXPECT_EQ(count(rows), 1);
  rows.axes[0].local_stride = 9;  // padded rows
  EXPECT_EQ(count(rows), 12);
  rows.axes[0].count = 0;
  EXPECT_EQ(count(rows), 0);
}

TEST(Runs, RefuseAxesThatOverlap) {
  Piece p = whole("w", {12});
  p.axes = {Axis{3, 2, 4}, Axis{3, 1, 1}};
  EXPECT_THROW(runs(p, [](const auto&) {}), Error);
}

struct Bound {
  explicit Bound(Parameter p) : parameter(std::move(p)), arena(Backing::host, 1 << 20) {
    parameter.value = arena.tensor(parameter.shape, DType::f32);
  }
  std::vector<float> initialized(std::uint64_t seed) {
    initialize(parameter, parameter.value, seed);
    return {parameter.value.as<float>(), parameter.value.as<float>() + parameter.value.elements()};
  }
  Parameter parameter;
  Arena arena;
};

TEST(Initialize, DependsOnNameSeedAndElementAlone) {
  const auto make = [](const std::string& name, std::uint64_t seed) {
    return Bound({.shape = {40, 500}, .init = {.deviation = 0.5}, .pieces = {whole(name, {40, 500})}}).initialized(seed);
  };
  const auto values = make("a", 1);
  EXPECT_EQ(values, make("a", 1));
  EXPECT_NE(values, make("b", 1));
  EXPECT_NE(values, make("a", 2));
  EXPECT_FLOAT_EQ(values[777], 0.5f * normal({.seed = 1, .use = Use::init, .id = hash("a")}, 777));
  const double n = static_cast<double>(values.size());
  double mean = 0, square = 0;
  for (const float v : values) mean += v / n, square += static_cast<double>(v) * v / n;
  EXPECT_NEAR(mean, 0, 5 * 0.5 / std::sqrt(n));            // five deviations of a mean
  EXPECT_NEAR(square, 0.25, 5 * 0.25 * std::sqrt(2 / n));  // and of a mean square
}

TEST(Initialize, OnesAndZeros) {
  Parameter p{.shape = {5}, .init = {.kind = Init::Kind::ones}, .pieces = {whole("gain", {5})}};
  EXPECT_EQ(Bound(p).initialized(1), std::vector<float>(5, 1.0f));
  p.init.kind = Init::Kind::zeros;
  EXPECT_EQ(Bound(p).initialized(1), std::vector<float>(5, 0.0f));
}

TEST(Initialize, RefusesPiecesThatDoNotCover) {
  Bound b({.shape = {6}, .pieces = {whole("w", {5})}});
  EXPECT_THROW(initialize(b.parameter, b.parameter.value, 1), Error);
}

}  // namespace
}  // namespace offramp::testing
