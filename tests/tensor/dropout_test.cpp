// Random omission: the vectorised decisions, their frequency, and the join of a branch with the residual stream.
#include "registry.h"
#include "tensor/cpu/drop.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

constexpr Key kElements{.seed = 7, .use = Use::dropout, .id = 0x123456789abcdef0};
constexpr Key kSamples{.seed = 7, .use = Use::layer, .id = 11};

std::vector<float> scales(float p, std::uint64_t first, std::int64_t count) {
  std::vector<float> scale(static_cast<Index>(count));
  cpu::drop_scales(scale.data(), kElements, p, first, count);
  return scale;
}

TEST(Drop, VectorisedDecisionsAreTheSingleOnes) {
  const std::uint64_t starts[] = {0, 13, (std::uint64_t{1} << 32) - 37, (std::uint64_t{1} << 45) + 5};
  for (const float p : {0x1p-24f, 1e-3f, 0.1f, 0.5f, 0.9f, 1 - 0x1p-24f, 1.0f}) {
    const Drop drop{.p = p, .key = kElements};
    for (const std::uint64_t first : starts) {
      for (const std::int64_t count : {1, 15, 16, 17, 300}) {
        const auto scale = scales(p, first, count);
        for (Index i = 0; i < scale.size(); ++i) ASSERT_EQ(scale[i], falls(drop, first + i) ? 0 : 1 / (1 - p)) << p << " " << first + i;
      }
    }
  }
}

// uniform() is a multiple of 2^-24: thresholds that are its very value, or the next float after it.
TEST(Drop, DecidesExactlyAtTheThreshold) {
  for (std::uint64_t number = 0; number < 100; ++number) {
    const float drawn = uniform(kElements, number);
    EXPECT_NE(scales(drawn, number, 1)[0], 0.0f) << number << " is not below itself";
    EXPECT_EQ(scales(std::nextafter(drawn, 1.0f), number, 1)[0], 0.0f) << number;
  }
}

// Within five deviations of the binomial distribution.
TEST(Drop, FallsAsOftenAsItShould) {
  const std::int64_t count = 1 << 18;
  for (const float p : {0.01f, 0.1f, 0.5f, 0.9f}) {
    const auto scale = scales(p, 0, count);
    const auto fallen = static_cast<double>(std::count(scale.begin(), scale.end(), 0.0f));
    EXPECT_NEAR(fallen, p * count, 5 * std::sqrt(p * (1 - p) * count)) << p;
  }
}

// Of pairs (i, i + distance) a quarter falls together, were they thrown independently.
TEST(Drop, NeighboursFallIndependently) {
  const std::int64_t count = 1 << 18;
  const auto scale = scales(0.5f, 0, count + 512);
  for (const Index distance : {1, 2, 16, 512}) {
    double both = 0;
    for (Index i = 0; i < static_cast<Index>(count); ++i) both += scale[i] == 0 && scale[i + distance] == 0;
    EXPECT_NEAR(both, count / 4.0, 5 * std::sqrt(count * 3.0 / 16) * 1.5) << distance;  // pairs overlap, so a little wider
  }
}

// ---- joining

struct Joining {
  std::int64_t n, h;
  bool residual, bias;
  Drop dropout, layer;
};

Drop elements(float p, std::int64_t first_row) { return {.p = p, .key = kElements, .first_row = first_row}; }
Drop samples(float p, std::int64_t first_row, std::int64_t rows) { return {.p = p, .key = kSamples, .first_row = first_row, .rows = rows}; }

double scale_of(const Drop& drop, std::int64_t i, std::int64_t h) {
  const std::int64_t row = drop.first_row + i / h, number = drop.rows > 0 ? row / drop.rows : row * h + i % h;
  if (falls(drop, static_cast<std::uint64_t>(number))) return 0;
  return drop.rows > 0 ? 1 : 1 / (1 - static_cast<double>(drop.p));
}

Join options_of(const Joining& s, const Tensor& bias) { return {.bias = bias, .dropout = s.dropout, .layer = s.layer}; }

Case join_case(Joining s) {
  Case c{.name = fmt::format("join n={} h={} residual={} bias={} dropout={}/{} layer={}/{}", s.n, s.h, s.residual, s.bias, s.dropout.p,
                             s.dropout.rows, s.layer.p, s.layer.rows),
         .operands = {required(output("y", {s.n, s.h})), input("branch", {s.n, s.h})},
         .run = [=](Context& context, const Tensors& t) { join(context, t["y"], t["residual"], t["branch"], options_of(s, t["bias"])); },
         .reference =
             [=](Values& v) {
               for (Index i = 0; i < v["y"].size(); ++i) {
                 const auto at = static_cast<std::int64_t>(i);
                 const double scale = scale_of(s.dropout, at, s.h) * scale_of(s.layer, at, s.h);
                 const double bias = s.bias ? v["bias"][i % static_cast<Index>(s.h)] : 0;
                 v["y"][i] = (s.residual ? v["residual"][i] : 0) + scale * (v["branch"][i] + bias);
               }
             },
         .aliases = {{"y", "branch"}}};
  if (s.bias) c.operands.push_back(input("bias", {s.h}));
  if (s.residual) c.operands.push_back(input("residual", {s.n, s.h})), c.aliases.push_back({"y", "residual"});
  return c;
}

Case join_backward_case(Joining s) {
  return {.name = "backward of " + join_case(s).name,
          .operands = {output("d_branch", {s.n, s.h}), input("dy", {s.n, s.h})},
          .run = [=](Context& context, const Tensors& t) { join_backward(context, t["d_branch"], t["dy"], options_of(s, {})); },
          .reference =
              [=](Values& v) {
                for (Index i = 0; i < v["dy"].size(); ++i) {
                  const auto at = static_cast<std::int64_t>(i);
                  v["d_branch"][i] = v["dy"][i] * scale_of(s.dropout, at, s.h) * scale_of(s.layer, at, s.h);
                }
              },
          .aliases = {{"d_branch", "dy"}}};
}

std::vector<Joining> joinings(std::int64_t n, std::int64_t h) {
  std::vector<Joining> all;
  for (const Drop& dropout : {Drop{}, elements(0.3f, 0), elements(0.3f, 1000), samples(0.4f, 2, 3)}) {
    for (const Drop& layer : {Drop{}, samples(0.5f, 5, 4), elements(0.2f, 3)}) {
      for (const bool residual : {false, true}) {
        for (const bool bias : {false, true}) all.push_back({n, h, residual, bias, dropout, layer});
      }
    }
  }
  return all;
}

TEST(Join, EveryCombination) {
  std::vector<Joining> all = joinings(11, 37);
  all.push_back({1, 1, true, true, elements(0.3f, 0), {}});
  all.push_back({70, 600, true, true, elements(0.3f, 9), samples(0.5f, 9, 4)});  // several pieces a row, several threads
  for (const Joining& s : all) {
    check_case(join_case(s));
    check_case(in_bf16(join_case(s), {"y", "branch", "bias", "residual"}));
    check_case(join_backward_case(s));
    check_case(in_bf16(join_backward_case(s), {"d_branch", "dy"}));
  }
}

TEST(Join, GradientAgreesWithFiniteDifferences) {
  for (const Joining& s : joinings(11, 5)) check_gradient(join_case(s), join_backward_case(s));
}

// A branch of a sample that falls need not have been computed.
TEST(Join, WhatFallsIsNotRead) {
  const Joining s{64, 33, true, true, elements(0.5f, 0), samples(0.5f, 0, 4)};
  Case c = join_case(s);
  c.operands[1].fill = [=](std::int64_t i) {
    const bool fallen = scale_of(s.dropout, i, s.h) * scale_of(s.layer, i, s.h) == 0;
    return fallen ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  };
  const Result result = run_case(c);
  for (const double y : result.values.at("y")) ASSERT_FALSE(std::isnan(y));
}

// Ranks that hold other rows of the same tokens drop what one rank with all of them would.
TEST(Join, RowsApartAreTheRowsTogether) {
  const Joining whole{24, 33, true, true, elements(0.3f, 100), samples(0.5f, 100, 4)};
  const auto all = run_case(join_case(whole)).values.at("y");
  Joining lower = whole;
  lower.n = 7, lower.dropout.first_row += 17, lower.layer.first_row += 17;
  Case c = join_case(lower);
  const Values values = initial_values(join_case(whole));
  for (Operand& o : c.operands) {
    const Index skipped = o.name == "bias" ? 0 : 17 * 33;
    o.fill = [=](std::int64_t i) { return o.role == Role::output ? 0 : values.at(o.name)[skipped + static_cast<Index>(i)]; };
  }
  EXPECT_TRUE(same_bits(run_case(c).values.at("y"), {all.begin() + 17 * 33, all.end()}));
}

TEST(Join, RefusesWhatIsNoProbability) {
  for (const float p : {-0.1f, 1.1f, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THROW(run_case(join_case({3, 5, true, true, elements(p, 0), {}})), Error) << p;
  }
}

}  // namespace
}  // namespace offramp::testing
