// Uneven partitions: against trying all, the published figure, and what must stay even.
#include "parallel/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "parallel/generators.h"
#include "parallel/simulate.h"
#include "tensor/check.h"
#include "tests/parallel/layouts.h"

namespace offramp {
namespace {

double largest(const std::vector<double>& work, const std::vector<int>& layers) {
  double most = 0;
  auto at = work.begin();
  for (const int n : layers) most = std::max(most, std::accumulate(at, at + n, 0.0)), at += n;
  return most;
}

// The least largest stage of all partitions.
double least(const std::vector<double>& work, std::vector<int> layers, int stages) {
  const int left = static_cast<int>(work.size()) - std::accumulate(layers.begin(), layers.end(), 0);
  if (stages == 1) return layers.push_back(left), largest(work, layers);
  double best = 1e300;
  for (int n = 1; n <= left - (stages - 1); ++n) {
    layers.push_back(n);
    best = std::min(best, least(work, layers, stages - 1));
    layers.pop_back();
  }
  return best;
}

TEST(Partition, TheLargestStageIsTheLeastOfAll) {
  test::Random random(7);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> work(static_cast<std::size_t>(test::pick(random, 1, 9)));
    for (double& w : work) w = test::pick(random, 1, 3) + (test::coin(random) ? 3 : 0);
    const int stages = test::pick(random, 1, static_cast<int>(work.size()));
    const std::vector<int> layers = balanced_layers(work, stages);
    ASSERT_EQ(layers.size(), static_cast<std::size_t>(stages));
    EXPECT_EQ(std::accumulate(layers.begin(), layers.end(), 0), static_cast<int>(work.size()));
    EXPECT_GE(*std::ranges::min_element(layers), 1);
    EXPECT_EQ(largest(work, layers), least(work, {}, stages));
  }
}

TEST(Partition, EqualLayersAreSplitEvenly) {
  for (int layers = 1; layers <= 30; ++layers)
    for (int stages = 1; stages <= layers; ++stages)
      EXPECT_EQ(partition_of(balanced_layers(std::vector<double>(static_cast<std::size_t>(layers), 0.1), stages)).first_unit,
                even_partition(layers, stages).first_unit);
}

TEST(Partition, EqualLayersOfSeveralStagesStay) {
  for (int ranks = 2; ranks <= 4; ++ranks)
    for (int stages = 2 * ranks; stages <= 3 * ranks; stages += ranks)
      for (int layers = stages; layers <= 3 * stages; ++layers) {
        const std::vector<double> work(static_cast<std::size_t>(layers), 0.1);
        EXPECT_EQ(balanced_ranks(work, balanced_layers(work, stages), ranks), balanced_layers(work, stages));
      }
}

TEST(Partition, AHeadIsPaidFor) {
  std::vector<double> work(24, 3);
  work.back() += 9;  // EE-LLM's figure: six layers a stage, a head costs half a stage
  EXPECT_EQ(balanced_layers(work, 4), (std::vector<int>{7, 7, 7, 3}));
  Layout layout = test::plain_layout(4, 32);
  layout.exits = {{.stage = 3}};
  const auto seconds = [&](std::vector<int> layers) {
    const Times times = [&](const Action& a) {
      const int n = layers[static_cast<std::size_t>(a.stage)];
      return a.op == Op::Exit ? 9.0 : a.op == Op::Forward ? n : a.op == Op::Backward ? 2 * n : 0;
    };
    return simulate(build_schedule("1f1b", layout), layout, times).seconds;
  };
  EXPECT_EQ(seconds({6, 6, 6, 6}), 918);
  EXPECT_EQ(seconds(balanced_layers(work, 4)), 729);
}

double largest_rank(const std::vector<double>& work, const std::vector<int>& layers, int ranks) {
  std::vector<double> loads(static_cast<std::size_t>(ranks), 0);
  auto at = work.begin();
  for (std::size_t s = 0; s < layers.size(); at += layers[s++])
    loads[s % loads.size()] = std::accumulate(at, at + layers[s], loads[s % loads.size()]);
  return *std::ranges::max_element(loads);
}

// A stage has one layer at least: of a head as long as three, its rank's other stage pays a part.
TEST(Partition, RanksOfSeveralStagesPayForTheHead) {
  std::vector<double> work(16, 1);
  work.back() += 3;
  const std::vector<int> of_stages = balanced_layers(work, 8), of_ranks = balanced_ranks(work, of_stages, 4);
  EXPECT_EQ(of_stages, (std::vector<int>{3, 2, 2, 2, 2, 2, 2, 1}));
  EXPECT_EQ(largest_rank(work, of_stages, 4), 6);
  EXPECT_EQ(largest_rank(work, of_ranks, 4), 5);
  EXPECT_EQ(of_ranks[3] + of_ranks[7], 2);
}

TEST(Partition, NoRankOfSeveralStagesGetsMore) {
  test::Random random(8);
  for (int trial = 0; trial < 200; ++trial) {
    const int ranks = test::pick(random, 2, 4), stages = ranks * test::pick(random, 2, 3);
    std::vector<double> work(static_cast<std::size_t>(test::pick(random, stages, 3 * stages)));
    for (double& w : work) w = test::pick(random, 1, 3) + (test::coin(random) ? 3 : 0);
    const std::vector<int> before = balanced_layers(work, stages), layers = balanced_ranks(work, before, ranks);
    EXPECT_EQ(std::accumulate(layers.begin(), layers.end(), 0), static_cast<int>(work.size()));
    EXPECT_GE(*std::ranges::min_element(layers), 1);
    EXPECT_LE(largest_rank(work, layers, ranks), largest_rank(work, before, ranks));
  }
}

TEST(Partition, WhatCannotBeIsSaid) {
  EXPECT_THROW(balanced_layers(std::vector<double>(3, 1), 4), Error);
  EXPECT_EQ(refuse_layers(std::vector{4, 4}, 8, 2), "");
  EXPECT_EQ(refuse_layers(std::vector{4, 4}, 8, 4), "names 2 stages, but there are 4");
  EXPECT_EQ(refuse_layers(std::vector{8, 0}, 8, 2), "leaves a stage without a layer; each needs one");
  EXPECT_EQ(refuse_layers(std::vector{4, 3}, 8, 2), "adds up to 7 layers, but the model has 8");
}

TEST(Partition, AnExitsLayerIsHeavier) {
  ModelConfig model;
  model.num_hidden_layers = 4, model.hidden_size = 8, model.intermediate_size = 16, model.num_attention_heads = 2;
  model.num_key_value_heads = 2, model.vocab_size = 100;
  const std::vector<ExitSpec> exits = {{.layer = 2, .head = HeadKind::block}};
  const auto work = layer_work(model, exits, {.stages = 2, .sequence_length = 4});
  EXPECT_EQ(work[1] - work[0], 6 * 100 * 8 + work[0]);
  EXPECT_EQ(work[3] - work[2], 6 * 100 * 8);
  EXPECT_EQ(layer_work(model, exits, {.stages = 2, .sequence_length = 4, .split_heads = true})[3], work[0]);
}

}  // namespace
}  // namespace offramp
