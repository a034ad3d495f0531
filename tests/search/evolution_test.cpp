// Evolution finds what looking at everything finds, keeps to its limit, and asks for no more than it says; fronts are what nothing beats.
#include "search/evolution.h"

#include <gtest/gtest.h>

#include "search/pareto.h"

namespace offramp {
namespace {

const ModelConfig kModel = {
    .num_hidden_layers = 12, .hidden_size = 64, .intermediate_size = 1024, .num_attention_heads = 32, .num_key_value_heads = 8};

Space space() {
  Space all{.num_hidden_layers = {4, 6, 8, 10, 12}, .num_key_value_heads = {1, 2, 4, 8}, .queries_per_group = {1, 2, 4}};
  for (std::int64_t i = 1; i <= 16; ++i) all.intermediate_size.push_back(64 * i);
  for (std::int64_t i = 1; i <= 8; ++i) all.hidden_size.push_back(8 * i);
  return all;
}

double cost_of(const Subnet& subnet) {
  const Subnet s = spelled_out(subnet, kModel);
  return static_cast<double>(s.num_hidden_layers * s.hidden_size *
                             (s.intermediate_size + 16 * s.num_key_value_heads * s.queries_per_group));
}

// Bent, so that no axis alone decides: every one is worth most while it is small.
double loss_of(const Subnet& subnet) {
  const Subnet s = spelled_out(subnet, kModel);
  const auto part = [&](std::int64_t Subnet::*axis, double bend) {
    return bend / static_cast<double>(s.*axis) * static_cast<double>(spelled_out({}, kModel).*axis);
  };
  return part(&Subnet::num_hidden_layers, 0.3) + part(&Subnet::hidden_size, 0.2) + part(&Subnet::intermediate_size, 0.05) +
         part(&Subnet::num_key_value_heads, 0.02) + part(&Subnet::queries_per_group, 0.04);
}

double least_loss(double limit) {
  double least = 1e9;
  for (std::int64_t n = 0; n < static_cast<std::int64_t>(count_of(space())); ++n)
    if (const Subnet subnet = nth_of(space(), n); cost_of(subnet) <= limit) least = std::min(least, loss_of(subnet));
  return least;
}

EvolutionOptions options(double limit) {
  return {.space = space(), .model = kModel, .loss = loss_of, .cost = cost_of, .limit = limit, .begin = {smallest(space())}, .seed = 1};
}

TEST(Evolve, FindsWhatLookingAtAllFinds) {
  ASSERT_EQ(count_of(space()), 7680);
  for (const double part : {0.02, 0.1, 0.3, 0.7}) {
    const double limit = part * cost_of({});
    const std::vector<Subnet> found = evolve(options(limit), 3);
    ASSERT_EQ(found.size(), 3u);
    EXPECT_LE(loss_of(found[0]), 1.005 * least_loss(limit)) << part;
    for (const Subnet& subnet : found) EXPECT_LE(cost_of(subnet), limit);
    EXPECT_LE(loss_of(found[0]), loss_of(found[1]));
    EXPECT_LE(loss_of(found[1]), loss_of(found[2]));
  }
  EXPECT_EQ(evolve(options(cost_of({})), 1), std::vector<Subnet>{Subnet{}});
}

TEST(Evolve, FromTheOneThatFits) {
  const double limit = cost_of(smallest(space()));
  EXPECT_EQ(evolve(options(limit), 3), std::vector{smallest(space())});
  EXPECT_TRUE(evolve(options(limit - 1), 3).empty());
}

TEST(Evolve, FollowsTheSeed) {
  EvolutionOptions weak = options(0.1 * cost_of({}));
  weak.population = 4, weak.parents = 2, weak.generations = 2;
  const std::vector<Subnet> found = evolve(weak, 4);
  EXPECT_EQ(evolve(weak, 4), found);
  weak.seed = 2;
  EXPECT_NE(evolve(weak, 4), found);
}

TEST(Evolve, AsksNoMoreThanItSays) {
  EvolutionOptions counted = options(0.5 * cost_of({}));
  int losses = 0;
  counted.loss = [&](const Subnet& subnet) { return ++losses, loss_of(subnet); };
  evolve(counted, 1);
  EXPECT_LE(losses, 1 + counted.population * (1 + counted.generations));
  EXPECT_GT(losses, counted.population);
}

TEST(ParetoFront, IsWhatNothingBeats) {
  const std::vector<CostAndLoss> all = {{5, 1}, {1, 9}, {2, 9}, {3, 4}, {3, 3}, {4, 3}, {6, 2}, {1, 9}};
  EXPECT_EQ(pareto_front(all), (std::vector<std::size_t>{1, 4, 0}));
  EXPECT_TRUE(pareto_front({}).empty());
}

}  // namespace
}  // namespace offramp
