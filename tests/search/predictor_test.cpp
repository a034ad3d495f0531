// A fit finds what it can express, says truthfully what it predicts of rows that it has not seen, and stays calm where rows are few.
#include "search/predictor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "search/sample.h"
#include "tensor/random.h"

namespace offramp {
namespace {

using Rows = std::vector<std::vector<double>>;

double noise(std::uint64_t i) { return static_cast<double>(normal({.seed = 5}, i)); }

TEST(Ridge, FindsAPlane) {
  Rows rows;
  std::vector<double> values;
  for (std::uint64_t i = 0; i < 20; ++i) {
    rows.push_back({noise(2 * i), 1000 * noise(2 * i + 1)});
    values.push_back(3 + 2 * rows.back()[0] - 0.01 * rows.back()[1]);
  }
  const Ridge fit(rows, values);
  EXPECT_NEAR(fit(std::vector<double>{0.5, 300}), 3 + 1 - 3, 1e-4);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(fit.left_out()[i], values[i], 1e-3);
}

// Against fits that really have not seen it. Scaled rows, so that leaving one out does not scale the others anew.
TEST(Ridge, LeavesOutWhatItSays) {
  Rows rows;
  std::vector<double> values;
  for (int i = 0; i < 12; ++i) {
    const double x = i % 2 == 0 ? 1 : -1, y = i % 4 < 2 ? 1 : -1;
    rows.push_back({x, y});
    values.push_back(1 + x + 0.2 * noise(static_cast<std::uint64_t>(i)));
  }
  const Ridge all(rows, values);
  for (std::size_t out = 0; out < rows.size(); ++out) {
    Rows others = rows;
    std::vector<double> known = values;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(out)), known.erase(known.begin() + static_cast<std::ptrdiff_t>(out));
    EXPECT_NEAR(all.left_out()[out], Ridge(others, known)(rows[out]), 0.02);
    EXPECT_GT(std::abs(all.left_out()[out] - all(rows[out])), 1e-3);  // it is not merely the fit
  }
}

TEST(Ridge, StaysCalmWithFewRows) {
  const Rows rows = {{1, 2, 3, 4}, {1, 2, 3, 4.0000001}, {1, 1, 1, 1}};
  const Ridge fit(rows, std::vector<double>{5, 6, 4});
  EXPECT_LT(std::abs(fit(std::vector<double>{1, 2, 3, 5})), 100);
  EXPECT_NEAR(Ridge({{7, 7}}, std::vector<double>{2.5})(std::vector<double>{1, 2}), 2.5, 1e-12);
}

const ModelConfig kModel = {
    .num_hidden_layers = 8, .hidden_size = 64, .intermediate_size = 96, .num_attention_heads = 8, .num_key_value_heads = 4};
const Space kSpace = {.num_hidden_layers = {4, 6, 8}, .intermediate_size = {24, 48, 72, 96}, .num_key_value_heads = {1, 2, 4}};

// Losses as those of real subnets go: less for every doubling, and less so the bigger.
double loss_of(const Subnet& subnet) {
  const Subnet all = spelled_out(subnet, kModel);
  const double depth = std::log2(static_cast<double>(all.num_hidden_layers)), width = std::log2(static_cast<double>(all.intermediate_size)),
               groups = std::log2(static_cast<double>(all.num_key_value_heads));
  return 6 + 1 / depth + 0.3 * std::pow(2, -width / 3) - 0.05 * groups - 0.02 * width * groups;
}

TEST(Predictor, OrdersSubnetsThatItHasNotSeen) {
  const std::vector<Subnet> measured = sample_subnets(kSpace, kModel, 20, 3), all = sample_subnets(kSpace, kModel, 36, 3);
  std::vector<double> losses, truth, predicted;
  for (std::size_t i = 0; i < measured.size(); ++i) losses.push_back(loss_of(measured[i]) + 0.002 * noise(i));
  const Predictor loss(kSpace, kModel, measured, losses);
  for (const Subnet& subnet : all) truth.push_back(loss_of(subnet)), predicted.push_back(loss(subnet));
  EXPECT_GT(rank_correlation(truth, predicted), 0.98);
  EXPECT_GT(loss.rank_correlation(), 0.95);
  EXPECT_LT(loss.error(), 0.02);
  EXPECT_GT(loss.error(), 0.0005);
}

TEST(Predictor, SaysThatItKnowsNothing) {
  const std::vector<Subnet> measured = sample_subnets(kSpace, kModel, 30, 3);
  std::vector<double> losses;
  for (std::size_t i = 0; i < measured.size(); ++i) losses.push_back(5 + noise(100 + i));
  const Predictor loss(kSpace, kModel, measured, losses);
  EXPECT_GT(loss.error(), 0.5);
  EXPECT_LT(loss.rank_correlation(), 0.5);
}

TEST(RankCorrelation, IsSpearmans) {
  const std::vector<double> up = {1, 2, 3, 4}, bent = {0, 10, 11, 1000}, down = {4, 3, 2, 1}, tied = {1, 1, 2, 3}, flat = {2, 2, 2, 2};
  EXPECT_DOUBLE_EQ(rank_correlation(up, bent), 1);
  EXPECT_DOUBLE_EQ(rank_correlation(up, down), -1);
  EXPECT_DOUBLE_EQ(rank_correlation(up, flat), 0);
  EXPECT_NEAR(rank_correlation(up, tied), 4.5 / std::sqrt(5 * 4.5), 1e-12);
}

}  // namespace
}  // namespace offramp
