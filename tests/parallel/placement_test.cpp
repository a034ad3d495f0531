// Golden values of what follows from a partition: ties, segments, layouts.
#include "parallel/placement.h"

#include <gtest/gtest.h>

#include "small_job.h"

namespace offramp::testing {
namespace {

Model model_of(std::vector<ExitSpec> exits, bool tied = false) {  // eight layers: units 0 .. 16
  return build_model(small_job({}, tied).options.model, exits);
}

TEST(EvenPartition, GivesTheFirstStagesWhatDoesNotDivide) {
  EXPECT_EQ(even_partition(8, 1).first_unit, (std::vector<int>{0, 17}));
  EXPECT_EQ(even_partition(8, 2).first_unit, (std::vector<int>{0, 9, 17}));
  EXPECT_EQ(even_partition(8, 3).first_unit, (std::vector<int>{0, 7, 13, 17}));  // 3, 3 and 2 layers
  EXPECT_EQ(even_partition(7, 4).first_unit, (std::vector<int>{0, 5, 9, 13, 15}));
  EXPECT_EQ(even_partition(3, 3).first_unit, (std::vector<int>{0, 3, 5, 7}));
  for (const auto& [layers, stages] : {std::pair{2, 3}, {2, 0}, {2, -1}}) EXPECT_THROW(even_partition(layers, stages), Error);
}

TEST(EvenPartition, KnowsTheStageOfEveryUnit) {
  const Partition partition = even_partition(3, 3);
  const std::vector<int> stages{0, 0, 0, 1, 1, 2, 2};
  for (int unit = 0; unit < 7; ++unit) {
    EXPECT_EQ(partition.stage_of(unit), stages[static_cast<std::size_t>(unit)]) << unit;
    EXPECT_TRUE(partition.units(partition.stage_of(unit)).contains(unit)) << unit;
  }
  EXPECT_EQ(partition.stages(), 3);
}

// A line a tie: its name and stages from the highest to the owner.
std::vector<std::string> ties_of(Model model, int stages) {
  std::vector<std::string> lines;
  for (const Tie& tie : find_ties(model, even_partition(8, stages)))
    lines.push_back(fmt::format("{}: {}", tie.name, fmt::join(tie.stages, " ")));
  return lines;
}
using Lines = std::vector<std::string>;

// Four stages: units 0..4, 5..8, 9..12, 13..16.
TEST(FindTies, TiedEmbeddingWithExitsOnMiddleStages) {
  const std::vector<ExitSpec> exits{{.layer = 4, .shared_output = true}, {.layer = 6, .shared_output = true}};
  EXPECT_EQ(ties_of(model_of(exits, true), 4), (Lines{"model.embed_tokens.weight: 3 2 1 0"}));
  EXPECT_EQ(ties_of(model_of(exits, false), 4), (Lines{"lm_head.weight: 3 2 1"}));
  EXPECT_EQ(ties_of(model_of({}, true), 4), (Lines{"model.embed_tokens.weight: 3 0"}));
  EXPECT_EQ(ties_of(model_of(exits, true), 1), (Lines{"model.embed_tokens.weight: 0"}));  // heads and a lookup
  EXPECT_EQ(ties_of(model_of(exits, false), 1), Lines{});                                 // heads alone are one writer
}

// The exit reads layer 3's attention, whose stage has layer 3's MLP and its norm: head and unit write to it.
TEST(FindTies, NormOfAnMlpExit) {
  EXPECT_EQ(ties_of(model_of({{.layer = 3, .head = HeadKind::mlp}}), 4), (Lines{"model.layers.2.post_attention_layernorm.weight: 1"}));
}

TEST(FindTies, SharedNorm) {
  const std::vector<ExitSpec> exits{{.layer = 2, .shared_norm = true}, {.layer = 7, .shared_norm = true}};
  EXPECT_EQ(ties_of(model_of(exits), 4), (Lines{"model.norm.weight: 3 0"}));
}

TEST(FindTies, AreInTheOrderOfNames) {
  EXPECT_EQ(ties_of(model_of({{.layer = 3, .head = HeadKind::mlp, .shared_output = true, .shared_norm = true}}, true), 4),
            (Lines{"model.embed_tokens.weight: 3 1 0", "model.layers.2.post_attention_layernorm.weight: 1", "model.norm.weight: 3 1"}));
}

std::vector<std::pair<int, int>> cuts(Units units, std::int64_t elements) {
  Model model = model_of({});
  std::vector<std::pair<int, int>> pairs;
  for (const Units& u : cut_segments(model, units, elements)) pairs.emplace_back(u.begin, u.end);
  return pairs;
}
using Cuts = std::vector<std::pair<int, int>>;

// Matrices of an attention have 3072 elements, of an MLP 4608, the embedding 1952.
TEST(CutSegments, GathersMatricesInBackwardOrder) {
  EXPECT_EQ(cuts({0, 9}, 4000), (Cuts{{8, 9}, {6, 8}, {4, 6}, {2, 4}, {0, 2}}));
  EXPECT_EQ(cuts({9, 17}, 4000), (Cuts{{16, 17}, {14, 16}, {12, 14}, {10, 12}, {9, 10}}));  // the last one is what is left
  EXPECT_EQ(cuts({0, 5}, 4608 + 3072), (Cuts{{3, 5}, {1, 3}, {0, 1}}));                     // reached counts as gathered
  EXPECT_EQ(cuts({0, 5}, 1), (Cuts{{4, 5}, {3, 4}, {2, 3}, {1, 2}, {0, 1}}));
  EXPECT_EQ(cuts({0, 17}, std::int64_t{1} << 40), (Cuts{{0, 17}}));
}

Layout layout_of(Model model, int stages, const LayoutOptions& options) {
  const Partition partition = even_partition(8, stages);
  return make_layout(model, partition, find_ties(model, partition), options);
}

TEST(MakeLayout, PlacesExits) {
  const std::vector<ExitSpec> exits{{.layer = 4, .head = HeadKind::mlp}, {.layer = 4, .detach = true}, {.layer = 5}};
  const Layout layout = layout_of(model_of(exits), 2, {.microbatches = 3});
  EXPECT_TRUE(layout.ranks == 2 && layout.stages == 2 && layout.microbatches == 3 && layout.backward);
  using Row = std::array<int, 4>;  // stage, tap, at_output, gradient
  std::vector<Row> rows;
  for (const ExitPlace& e : layout.exits) rows.push_back({e.stage, e.tap, e.at_output, e.gradient});
  // Unit 8 is the end of stage 0 and sent on; what the last stage ends with is not.
  EXPECT_EQ(rows, (std::vector<Row>{{0, 7, 0, 1}, {0, 8, 1, 0}, {1, 10, 0, 1}, {1, 16, 0, 1}}));
  const Layout alone = layout_of(model_of(exits), 1, {});
  for (const ExitPlace& e : alone.exits) EXPECT_FALSE(e.at_output) << "one stage sends nothing";
}

TEST(MakeLayout, HasSegmentsAndBucketsOnlyToReduce) {
  const Layout reduced = layout_of(model_of({{.layer = 4, .shared_output = true}}, true), 2, {.reduce = true, .bucket_elements = 4000});
  EXPECT_EQ(reduced.ties, (std::vector<std::vector<int>>{{1, 0}}));
  EXPECT_EQ(reduced.segments, (std::vector<int>{5, 5}));
  std::vector<std::vector<std::pair<int, int>>> buckets;
  for (const auto& stage : reduced.buckets) {
    auto& places = buckets.emplace_back();
    for (const BucketPlace& b : stage) places.emplace_back(b.segment, b.tie);
  }
  // Stage 0 owns the tied embedding, a bucket of its own; stage 1's is a guest. Vectors join the last segment's matrices.
  const Cuts segments{{0, -1}, {1, -1}, {2, -1}, {3, -1}, {4, -1}};
  Cuts with_tie = segments;
  with_tie.emplace_back(-1, 0);
  EXPECT_EQ(buckets, (std::vector<Cuts>{with_tie, segments}));

  const Layout alone = layout_of(model_of({}, true), 2, {});
  EXPECT_TRUE(alone.segments.empty() && alone.buckets.empty() && alone.ties.size() == 1);
  const Layout evaluation = layout_of(model_of({}, true), 2, {.backward = false, .reduce = true});
  EXPECT_TRUE(!evaluation.backward && evaluation.segments.empty() && evaluation.buckets.empty() && evaluation.ties.empty());
}

}  // namespace
}  // namespace offramp::testing
