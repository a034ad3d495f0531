// The machine over tensor, pipeline and data ranks at once, of both architectures: the numbers of one rank, the memory that was planned,
// and the same bits again.
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

// Sums of at most 61 fp32 terms taken in another order, in each of the fifteen units and heads that a gradient passes: every one rounds by
// at most 2^-24 of a sum that grows like the root of its terms, so 15 * sqrt(61) * 2^-24 = 7e-6.
constexpr double kRounding = 1e-5;

// Six layers with an exit of every kind, some sharing with the final head.
SmallJob six_layers(bool tied, const std::string& architecture) {
  std::vector<ExitSpec> exits = exits_of_every_kind();
  const std::array layers{1, 2, 3, 4, 5, 6};
  for (std::size_t i = 0; i < layers.size(); ++i) exits[i].layer = layers[i];
  SmallJob job = small_job(exits, tied, architecture);
  job.options.model.num_hidden_layers = 6;
  job.options.micro_batch_size = 2;
  return job;
}

// Every way to run these degrees: with split rows and sharded state where there is something to split.
std::vector<SmallJob> variants(SmallJob job, const Degrees& degrees) {
  job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
  std::vector<SmallJob> all;
  for (const bool rows : {false, true})
    for (const bool state : {false, true}) {
      if ((rows && job.tensor == 1) || (state && job.data == 1)) continue;
      job.options.sequence_parallel = rows, job.options.shard_state = state;
      all.push_back(job);
    }
  return all;
}

constexpr std::array kDegrees{Degrees{2, 1, 1}, Degrees{4, 1, 1}, Degrees{2, 2, 1}, Degrees{2, 1, 2},
                              Degrees{1, 2, 2}, Degrees{2, 2, 2}, Degrees{4, 2, 1}};

class MachineLayouts : public ::testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  SmallJob job = six_layers(std::get<1>(GetParam()), std::get<0>(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(All, MachineLayouts, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Bool()),
                         [](const auto& p) { return std::string(std::get<0>(p.param)) + (std::get<1>(p.param) ? "_tied" : ""); });

TEST_P(MachineLayouts, GiveTheNumbersOfOneRankInThePlannedMemory) {
  const StepResult alone = run_small_job(job);
  for (const Degrees& degrees : kDegrees)
    for (const SmallJob& variant : variants(job, degrees)) {
      const StepResult result = run_small_job(variant);
      expect_close(result, alone, kRounding, variant.text());
      expect_squares(result, variant.text());
      expect_all_used(result, variant.text());
    }
}

// Only tensors that several stages hold add up in another order: seven terms at most, each sum rounded by 2^-24 of it.
TEST_P(MachineLayouts, LayersPerStageChangeNoMoreThanRounding) {
  job.pipeline = 3;
  const StepResult even = run_small_job(job);
  for (const std::vector<int>& layers : {std::vector{1, 1, 4}, {4, 1, 1}, {1, 3, 2}})
    for (const char* schedule : {"1f1b", "auto"}) {
      job.options.layers_per_stage = layers, job.options.schedule = schedule;
      const std::string text = fmt::format("{} {} {}", job.text(), fmt::join(layers, "+"), schedule);
      const StepResult result = run_small_job(job);
      expect_close(result, even, 1e-6, text);
      expect_all_used(result, text);
    }
}

TEST_P(MachineLayouts, WhatFallsIsTheSame) {
  job.options.model.attention_dropout = 0.2, job.options.model.hidden_dropout = 0.1;
  const StepResult whole = run_small_job(job);
  job.options.layer_drop = true;
  job.layer_rates = {0, 0.2f, 0.4f, 0.6f, 0.8f, 1};
  const StepResult alone = run_small_job(job);
  EXPECT_NE(alone.sums, whole.sums);
  for (const Degrees& degrees : {Degrees{1, 2, 2}, Degrees{2, 2, 1}, Degrees{4, 1, 2}})
    for (const SmallJob& variant : variants(job, degrees)) {
      const StepResult result = run_small_job(variant);
      expect_close(result.sums, alone.sums, kRounding, variant.text());
      for (const auto& [name, grad] : alone.grads) {
        const bool fell = name.find(".5.") != std::string::npos && !name.starts_with("exits.");  // the last layer, for all samples
        EXPECT_EQ(norm(grad) == 0, fell) << name;
        if (!fell) expect_close(ByName{{name, result.grads.at(name)}}, alone.grads, kRounding, variant.text());
      }
    }
}

TEST_P(MachineLayouts, SchedulesAndRepetitionsGiveEqualBits) {
  for (SmallJob& variant : variants(job, {2, 2, 2})) {
    const StepResult first = run_small_job(variant), again = run_small_job(variant);
    variant.options.schedule = "gpipe", variant.sends = Sends::buffered;
    const StepResult other = run_small_job(variant, 2);  // the second step starts from used memory
    for (const StepResult* result : {&again, &other}) {
      EXPECT_EQ(result->sums, first.sums);
      EXPECT_EQ(result->grads, first.grads) << variant.text();
    }
  }
}

TEST_P(MachineLayouts, OfBf16GiveTheNumbersOfOneRank) {
  const StepResult exact = run_small_job(job);
  job.options.precision = DType::bf16;
  // A hundred tensors on the way are rounded, by at most 2^-9 of every element: they add like their root. Gradients of queries and keys
  // are differences of numbers up to four times as large.
  constexpr double kBf16 = 4 * 10 * 0x1p-9;
  const StepResult alone = run_small_job(job);
  expect_close(alone, exact, kBf16, "bf16");
  for (const Degrees& degrees : {Degrees{2, 2, 2}, Degrees{4, 1, 1}})
    for (const SmallJob& variant : variants(job, degrees)) {
      const StepResult result = run_small_job(variant);
      expect_close(result, alone, kBf16, variant.text());
      expect_all_used(result, variant.text());
    }
}

// ---- with updates. Adam's first steps divide a gradient by its size: an eps of about that size keeps what is rounded small.

SmallJob updating(SmallJob job) {
  job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
  return job;
}

// How far weights went.
ByName movement(const StepResult& from, const StepResult& to) {
  ByName moved = to.weights;
  for (auto& [name, values] : moved)
    for (std::size_t i = 0; i < values.size(); ++i) values[i] -= from.weights.at(name)[i];
  return moved;
}

TEST_P(MachineLayouts, ThreeStepsOfAdamEndAtTheSameWeights) {
  const StepResult start = run_small_job(job, 0);
  const StepResult alone = run_small_job(updating(job), 3);
  const ByName expected = movement(start, alone);
  for (const Degrees& degrees : {Degrees{4, 1, 1}, Degrees{2, 2, 2}, Degrees{1, 2, 2}})
    for (const SmallJob& variant : variants(job, degrees)) {
      const StepResult result = run_small_job(updating(variant), 3);
      expect_close(result.sums, alone.sums, kRounding, variant.text());
      expect_close(movement(start, result), expected, 20 * kRounding, variant.text());
    }
}

TEST_P(MachineLayouts, ShardedStateGivesTheSameBits) {
  for (const DType precision : {DType::f32, DType::bf16})
    for (const Degrees& degrees : {Degrees{1, 1, 2}, Degrees{2, 2, 2}, Degrees{1, 1, 4}}) {
      SmallJob whole = updating(job);
      whole.options.precision = precision, whole.options.micro_batch_size = 1;
      whole.tensor = degrees.tensor, whole.pipeline = degrees.pipeline, whole.data = degrees.data;
      SmallJob sharded = whole;
      sharded.options.shard_state = true;
      const StepResult a = run_small_job(whole, 3), b = run_small_job(sharded, 3);
      EXPECT_EQ(a.weights, b.weights) << sharded.text();
      EXPECT_EQ(a.grads, b.grads) << sharded.text();
      EXPECT_EQ(a.sums, b.sums) << sharded.text();
      for (std::size_t rank = 0; rank < a.peaks.size(); ++rank) {
        EXPECT_EQ(b.peaks[rank].first.optimizer * static_cast<std::size_t>(degrees.data), a.peaks[rank].first.optimizer);
        EXPECT_EQ(b.peaks[rank].first.parameters, a.peaks[rank].first.parameters);
      }
    }
}

TEST_P(MachineLayouts, MastersOfBf16EndNearTheWeightsOfF32) {
  const StepResult start = run_small_job(job, 0);
  const ByName expected = movement(start, run_small_job(updating(job), 3));
  job.options.precision = DType::bf16;
  for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{2, 2, 2}})
    for (const SmallJob& variant : variants(job, degrees))
      expect_close(movement(start, run_small_job(updating(variant), 3)), expected, 0.1, variant.text());
}

}  // namespace
}  // namespace offramp::testing
