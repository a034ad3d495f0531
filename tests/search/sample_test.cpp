// What a search measures first: the ends of the space, nothing twice, all where there is no more, the same for a seed.
#include "search/sample.h"

#include <gtest/gtest.h>

#include <set>

namespace offramp {
namespace {

const ModelConfig kModel = {
    .num_hidden_layers = 8, .hidden_size = 64, .intermediate_size = 96, .num_attention_heads = 8, .num_key_value_heads = 4};
const Space kSpace = {
    .num_hidden_layers = {4, 6, 8}, .hidden_size = {64}, .intermediate_size = {24, 48, 72, 96}, .num_key_value_heads = {1, 2, 4}};

std::set<Subnet> as_set(const std::vector<Subnet>& subnets) { return {subnets.begin(), subnets.end()}; }

TEST(SampleSubnets, HasTheEndsAndNothingTwice) {
  for (const std::int64_t count : {5, 12, 35}) {
    const std::vector<Subnet> sample = sample_subnets(kSpace, kModel, count, 1);
    EXPECT_EQ(std::ssize(sample), count);
    const std::set<Subnet> found = as_set(sample);
    EXPECT_EQ(std::ssize(found), count);
    EXPECT_EQ(sample[0], Subnet{});
    EXPECT_EQ(sample[1], (Subnet{.num_hidden_layers = 4, .intermediate_size = 24, .num_key_value_heads = 1}));
    EXPECT_TRUE(found.contains({.num_hidden_layers = 4}));
    EXPECT_TRUE(found.contains({.num_hidden_layers = 6}));
    for (const Subnet& subnet : sample) {
      EXPECT_EQ(misfit(subnet, kSpace, kModel), "");
      EXPECT_EQ(shortened(subnet, kModel), subnet);
    }
  }
}

TEST(SampleSubnets, AreAllWhereThereAreNoMore) {
  for (const std::int64_t count : {36, 37, 1000}) EXPECT_EQ(as_set(sample_subnets(kSpace, kModel, count, 1)).size(), 36u);
  EXPECT_EQ(sample_subnets({.num_hidden_layers = {4, 8}}, kModel, 9, 1), (std::vector<Subnet>{{}, {.num_hidden_layers = 4}}));
}

TEST(SampleSubnets, FollowTheSeed) {
  EXPECT_EQ(sample_subnets(kSpace, kModel, 16, 1), sample_subnets(kSpace, kModel, 16, 1));
  EXPECT_NE(sample_subnets(kSpace, kModel, 16, 1), sample_subnets(kSpace, kModel, 16, 2));
}

// As many as no memory and no loop would go through.
TEST(SampleSubnets, OfAVastSpace) {
  Space vast;
  ModelConfig model = kModel;
  for (std::int64_t i = 1; i <= 1000; ++i) {
    for (const SubnetAxis& axis : subnet_axes()) (vast.*axis.choices).push_back(i);
  }
  model.num_hidden_layers = model.hidden_size = model.intermediate_size = model.num_key_value_heads = 1000,
  model.num_attention_heads = 1000000;
  EXPECT_EQ(as_set(sample_subnets(vast, model, 2000, 1)).size(), 2000u);
}

TEST(SampleSubnets, AreNumbered) {
  std::set<Subnet> all;
  for (std::int64_t n = 0; n < 36; ++n) all.insert(nth_of(kSpace, n));
  EXPECT_EQ(all.size(), 36u);
  EXPECT_EQ(shortened(nth_of(kSpace, 35), kModel), Subnet{});
}

}  // namespace
}  // namespace offramp
