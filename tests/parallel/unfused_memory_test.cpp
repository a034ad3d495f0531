// Activations where attention is not fused: Megatron's formula, and how many layers a schedule keeps.
#include "parallel/unfused_memory.h"

#include "parallel/generators.h"
#include "parallel/partition.h"
#include "parallel/plan.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

// 22 billion parameters, four sequences of 2,048 tokens, in bf16.
MachineOptions large() {
  MachineOptions o;
  o.model.architecture = "gpt2";
  o.model.hidden_size = 6144, o.model.intermediate_size = 4 * 6144;
  o.model.num_attention_heads = o.model.num_key_value_heads = 64;
  o.model.attention_dropout = o.model.hidden_dropout = 0.1;
  o.micro_batch_size = 4, o.sequence_length = 2048;
  o.precision = DType::bf16;
  return o;
}

TEST(UnfusedMemory, IsTheFormulaOfThePaper) {
  constexpr double kS = 2048, kB = 4, kH = 6144, kA = 64, kT = 8, kSbh = kS * kB * kH;
  MachineOptions o = large();
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 8), kSbh * (10 + 24 / kT + 5 * kA * kS / (kH * kT)));
  o.recompute = "selective";
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 8), kSbh * (10 + 24 / kT));
  o.sequence_parallel = true;
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 8), kSbh / kT * 34);
  o.recompute = "none";
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 8), kSbh / kT * (34 + 5 * kA * kS / kH));
  o.recompute = "full";
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 8), 2 * kSbh);
}

// Without dropout there are no masks and one copy of the probabilities; a gate widens the MLP, f32 doubles all.
TEST(UnfusedMemory, FollowsTheModel) {
  MachineOptions o = large();
  o.model.attention_dropout = o.model.hidden_dropout = 0;
  const double tokens = 4 * 2048, h = 6144, probabilities = tokens * 2 * 64 * 2048;
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 1), tokens * 32 * h + probabilities);
  o.model.architecture = "llama";
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 1), tokens * 40 * h + probabilities);
  o.precision = DType::f32;
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 1), 2 * (tokens * 40 * h + probabilities));
  o.model.head_dim = 2 * o.model.head_size();  // queries, keys, values and their sums are twice as wide
  EXPECT_DOUBLE_EQ(unfused_layer_bytes(o, 1), 2 * (tokens * 48 * h + probabilities));
}

Layout layout_of(int ranks, int stages, int microbatches, bool recompute) {
  Layout layout;
  layout.ranks = ranks, layout.stages = stages, layout.microbatches = microbatches;
  layout.exits = {{.stage = stages - 1, .tap = 2 * stages}};
  if (recompute) layout.recompute.assign(static_cast<std::size_t>(stages), true);
  return layout;
}

TEST(UnfusedMemory, AnInterleavedRankKeepsMoreThanAllOfItsLayersOnce) {
  for (const bool recompute : {false, true}) {
    const Layout layout = layout_of(4, 8, 8, recompute);
    const Partition partition = even_partition(16, 8);
    const Schedule schedule = build_schedule("interleaved", layout);
    // L (1 + (P - 1) / (P V)) on the first rank
    EXPECT_EQ(most_layers(schedule[0], layout, partition), 16 + 16 * 3 / 8);
    EXPECT_EQ(most_layers(schedule[3], layout, partition), 2 * (4 + 1));
  }
}

TEST(UnfusedMemory, StagesCountTheirOwnLayers) {
  const Layout layout = layout_of(2, 2, 4, false);
  const std::vector<int> layers = {3, 1};
  const Schedule schedule = build_schedule("1f1b", layout);
  EXPECT_EQ(most_layers(schedule[0], layout, partition_of(layers)), 2 * 3);
  EXPECT_EQ(most_layers(schedule[1], layout, partition_of(layers)), 1);
}

TEST(UnfusedMemory, APlanOfUnfusedAttentionHasItInPlaceOfOurs) {
  SmallJob small = small_job({}, false);
  small.pipeline = 2, small.options.microbatches = 4;
  const PlannedJob job{small.options, small.degrees(), {}};
  Cluster unfused;
  unfused.fused_attention = false;
  const StepPlan ours = plan_step(job, Cluster{}), theirs = plan_step(job, unfused);
  for (std::size_t p = 0; p < 2; ++p) {
    const MemoryPlan &a = ours.ranks[p].memory, &b = theirs.ranks[p].memory;
    EXPECT_EQ(static_cast<double>(b.activations), (p == 0 ? 8 : 4) * unfused_layer_bytes(small.options, 1));
    EXPECT_EQ(b.peak - b.activations, a.peak - a.activations);
  }
}

}  // namespace
}  // namespace offramp::testing
