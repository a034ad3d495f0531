// A frozen backbone: exits get the gradients that they have when everything learns, and nothing else is there.
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

// Exits whose last one stands before the last layer; the second has nothing that would learn.
std::vector<ExitSpec> some_exits() {
  std::vector<ExitSpec> exits = exits_of_every_kind();
  exits.pop_back();
  return exits;
}

SmallJob frozen(SmallJob job) {
  job.options.frozen_backbone = true, job.options.schedule = "exits_only";
  job.options.layers_per_stage.clear();
  return job;
}

OptimizerConfig clipped() {
  OptimizerConfig optimizer;
  optimizer.lr = 1e-2, optimizer.clip_grad_norm = 0.05;
  return optimizer;
}

struct Case {
  Degrees degrees;
  bool rows, split;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{2, 2, 2}, Degrees{1, 2, 2}})
    for (const bool rows : {false, true})
      for (const bool split : {false, true})
        if ((!rows || degrees.world() >= 4) && (!split || degrees.pipeline > 1)) all.push_back({degrees, rows, split});
  return all;
}

// Of which architecture, and whether its matrices are tied.
class MachineFrozenLayouts : public ::testing::TestWithParam<std::pair<const char*, bool>> {};
INSTANTIATE_TEST_SUITE_P(All, MachineFrozenLayouts,
                         ::testing::Values(std::pair{"llama", false}, std::pair{"llama", true}, std::pair{"gpt2", true}),
                         [](const auto& p) { return fmt::format("{}{}", p.param.first, p.param.second ? "_tied" : ""); });

SmallJob job_of(const std::pair<const char*, bool>& model, const Case& c, DType precision) {
  SmallJob job = small_job(some_exits(), model.second, model.first);
  job.tensor = c.degrees.tensor, job.pipeline = c.degrees.pipeline, job.data = c.degrees.data;
  job.options.sequence_parallel = c.rows && job.tensor > 1, job.options.shard_state = c.rows && job.data > 1;
  job.options.split_heads = c.split, job.options.precision = precision;
  job.evaluates = true;
  return job;
}

// What an exit calls its own.
bool learns(const std::string& name) { return name.starts_with("exits."); }

TEST_P(MachineFrozenLayouts, ExitsGetTheBitsOfAFullRun) {
  for (const DType precision : {DType::f32, DType::bf16})
    for (const Case& c : cases()) {
      SmallJob job = job_of(GetParam(), c, precision);
      const StepResult full = run_small_job(job), tuned = run_small_job(frozen(job));
      const std::string text = fmt::format("{}{}", job.text(), c.split ? " heads split" : "");
      const std::size_t sums = job.options.exits.size() * kLossSums;
      EXPECT_EQ(tuned.sums, std::vector(full.sums.begin(), full.sums.begin() + static_cast<std::ptrdiff_t>(sums))) << text;
      EXPECT_EQ(tuned.evaluated, std::vector(full.evaluated.begin(), full.evaluated.begin() + static_cast<std::ptrdiff_t>(sums))) << text;
      ByName expected;
      for (const auto& [name, grad] : full.grads)
        if (learns(name)) expected[name] = grad;
      EXPECT_EQ(tuned.grads, expected) << text;
      expect_squares(tuned, text);
      expect_all_used(tuned, text);
    }
}

TEST(MachineFrozen, NoRankHasWhatComesAfterTheLastExitOrStateOfTheBackbone) {
  SmallJob job = small_job(some_exits(), false);  // the last exit's layer is 6 of 8
  const StepResult full = run_small_job(job), tuned = run_small_job(frozen(job));
  for (const char* absent : {"model.layers.6.", "model.layers.7."})
    for (const auto& [name, values] : tuned.frozen) EXPECT_FALSE(name.starts_with(absent)) << name;
  EXPECT_TRUE(tuned.frozen.contains("model.layers.5.mlp.down_proj.weight"));
  EXPECT_TRUE(tuned.frozen.contains("lm_head.weight"));  // an exit shares it
  const MemoryPlan &a = full.peaks.front().first, &b = tuned.peaks.front().first;
  std::size_t trainable = 0;
  for (const auto& [name, grad] : tuned.grads) trainable += grad.size();
  EXPECT_GE(b.gradients, 4 * trainable);
  EXPECT_LT(b.gradients, 4 * trainable + 64 * tuned.grads.size() + 4096);  // padding
  EXPECT_EQ(b.optimizer, 2 * b.gradients);
  EXPECT_LT(b.activations, a.activations / 2);
}

TEST(MachineFrozen, TheBackboneKeepsItsBitsAndEachExitTrainsAsIfAlone) {
  for (const DType precision : {DType::f32, DType::bf16})
    for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{1, 2, 2}, Degrees{2, 2, 1}}) {
      SmallJob job = frozen(small_job(some_exits(), true));
      job.options.precision = precision;
      job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
      const StepResult start = run_small_job(job, 0);
      job.optimizer = clipped();
      const StepResult together = run_small_job(job, 3);
      EXPECT_EQ(together.frozen, start.frozen) << job.text();
      ByName apart;
      for (const ExitSpec& exit : some_exits()) {
        if (exit.shared_output && exit.shared_norm) continue;
        SmallJob alone = job;
        alone.options.exits = {exit};
        alone.pipeline = std::min(alone.pipeline, exit.layer);
        for (const auto& [name, weights] : run_small_job(alone, 3).weights) {
          apart[name] = weights;
          EXPECT_NE(weights, start.weights.at(name)) << name << ": clipped by another norm, or not trained";
        }
      }
      EXPECT_EQ(together.weights, apart) << job.text();
    }
}

// Exits that learn from the final head, by its message from the last stage, and some that are only measured by it: one of them, behind the
// last layer, says at first what the final head says.
TEST(MachineFrozen, ExitsLearnFromTheFinalHeadInAnyLayout) {
  for (const auto& [architecture, tied] : {std::pair{"llama", true}, {"llama", false}, {"gpt2", true}}) {
    SmallJob job = frozen(small_job(some_exits(), tied, architecture));
    job.options.exits.push_back(exits_of_every_kind().back());
    job.options.exits[0].target = Target::argmax;
    job.options.exits[2].target = job.options.exits[4].target = Target::distribution;
    job.evaluates = true;
    const StepResult alone = run_small_job(job);
    for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{1, 8, 1}, Degrees{2, 2, 2}, Degrees{2, 1, 1}})
      for (const bool rows : {false, true}) {
        SmallJob divided = job;
        divided.tensor = degrees.tensor, divided.pipeline = degrees.pipeline, divided.data = degrees.data;
        divided.options.sequence_parallel = rows && degrees.tensor > 1, divided.options.shard_state = rows && degrees.data > 1;
        const StepResult result = run_small_job(divided);
        const bool same_sums = degrees.tensor == 1 && degrees.data == 1;
        if (same_sums) {
          EXPECT_EQ(result.grads, alone.grads) << divided.text();
        }
        expect_close(result, alone, 1e-5, divided.text());
        expect_close(result.evaluated, alone.evaluated, 1e-5, divided.text());
        expect_all_used(result, divided.text());
        expect_squares(result, divided.text());
      }
    SmallJob of_labels = job;
    for (ExitSpec& exit : of_labels.options.exits) exit.target = Target::labels;
    const StepResult labels = run_small_job(of_labels);
    EXPECT_EQ(alone.grads.at("exits.5.norm.weight"), labels.grads.at("exits.5.norm.weight"));  // measured, but learns the labels
    EXPECT_NE(alone.grads.at("exits.3.norm.weight"), labels.grads.at("exits.3.norm.weight"));
    const double* like_final = &alone.sums[5 * kLossSums];
    EXPECT_EQ(like_final[5], like_final[3]);
    EXPECT_NEAR(like_final[4], like_final[3], 64 * 0x1p-24 * like_final[3]);
    for (std::size_t e = 0; e < 5; ++e) EXPECT_LT(alone.sums[e * kLossSums + 5], like_final[3]);
  }
}

TEST(MachineFrozen, OmitsNothingOfTheBackbone) {
  SmallJob job = frozen(small_job(some_exits(), true));
  const StepResult expected = run_small_job(job);
  job.options.model.hidden_dropout = job.options.model.attention_dropout = 0.3;
  const StepResult dropping = run_small_job(job);
  for (const std::size_t e : {0, 1}) {  // without layers of their own
    for (std::size_t i = e * kLossSums; i < (e + 1) * kLossSums; ++i) EXPECT_EQ(dropping.sums[i], expected.sums[i]);
  }
  EXPECT_NE(dropping.sums, expected.sums);  // an exit's own layers do drop
}

}  // namespace
}  // namespace offramp::testing
