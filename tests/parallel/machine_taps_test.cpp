// Exits whose taps come from elsewhere: read from a frozen backbone on any layout, given to a machine that has none. Where exits learn
// from the final head, so does what that reads.
#include <cstring>

#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

std::vector<ExitSpec> some_exits() {
  std::vector<ExitSpec> exits = exits_of_every_kind();
  exits.pop_back();  // the last layers do not run
  return exits;
}

// One exit of every target.
void teach(SmallJob& job) {
  job.options.exits[2].target = Target::argmax;
  job.options.exits[3].target = Target::distribution;
}

SmallJob frozen_job(const char* architecture, bool tied, const Degrees& degrees) {
  SmallJob job = small_job(some_exits(), tied, architecture);
  job.options.frozen_backbone = true, job.options.schedule = "exits_only";
  job.options.model.hidden_dropout = job.options.model.attention_dropout = 0.2;
  job.options.micro_batch_size = 2;
  job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
  job.evaluates = true;
  return job;
}

// By a microbatch's first sample and unit.
class Taps {
 public:
  void read(Machine& machine) {
    machine.read_taps(machine.options().microbatches, "taps", [&](const MicrobatchInput& input, int unit, Tensor tap) {
      const std::lock_guard lock(mutex_);
      auto& bytes = taps_[{input.first_sample, unit}];
      bytes.assign(reinterpret_cast<const char*>(tap.data), tap.bytes());
    });
  }
  void give(Machine& machine) const {
    machine.give_taps([this](const MicrobatchInput& input, int unit, Tensor tap) {
      const std::string& bytes = taps_.at({input.first_sample, unit});
      ASSERT_EQ(bytes.size(), tap.bytes());
      std::memcpy(tap.data, bytes.data(), bytes.size());
    });
  }
  std::map<std::pair<std::int64_t, int>, std::string>& all() { return taps_; }

 private:
  std::mutex mutex_;
  std::map<std::pair<std::int64_t, int>, std::string> taps_;
};

void expect_equal(const StepResult& given, const StepResult& ran, const std::string& text) {
  EXPECT_EQ(given.sums, ran.sums) << text;
  EXPECT_EQ(given.evaluated, ran.evaluated) << text;
  EXPECT_EQ(given.grads, ran.grads) << text;
  EXPECT_EQ(given.weights, ran.weights) << text;
}

struct Case {
  const char* architecture;
  bool tied, taught;  // matrices; exits by the final head
  SmallJob job(const Degrees& degrees) const {
    SmallJob job = frozen_job(architecture, tied, degrees);
    if (taught) teach(job);
    return job;
  }
};

class MachineTaps : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, MachineTaps,
                         ::testing::Values(Case{"llama", false, false}, Case{"llama", true, false}, Case{"gpt2", true, false},
                                           Case{"llama", false, true}, Case{"llama", true, true}, Case{"gpt2", true, true}),
                         [](const auto& p) {
                           return fmt::format("{}{}{}", p.param.architecture, p.param.tied ? "_tied" : "", p.param.taught ? "_taught" : "");
                         });

TEST_P(MachineTaps, ExitsHaveTheBitsThatTheyHaveWithTheirBackbone) {
  for (const DType precision : {DType::f32, DType::bf16})
    for (const auto& [data, shard] : {std::pair{1, false}, {2, false}, {2, true}}) {
      SmallJob job = GetParam().job({1, 1, data});
      job.options.precision = precision, job.options.shard_state = shard;
      job.optimizer = OptimizerConfig{};
      Taps taps;
      SmallJob reads = job;
      reads.before = [&](Machine& machine) { taps.read(machine); };
      const StepResult ran = run_small_job(reads, 3);
      job.options.given_taps = true;
      job.before = [&](Machine& machine) { taps.give(machine); };
      const StepResult given = run_small_job(job, 3);
      expect_equal(given, ran, job.text());
      expect_all_used(given, job.text());
      for (const auto& [name, values] : given.frozen) EXPECT_EQ(values, ran.frozen.at(name)) << name;
      EXPECT_FALSE(given.frozen.contains("model.layers.0.mlp.down_proj.weight"));
    }
}

TEST_P(MachineTaps, AreThoseOfEveryLayout) {
  const auto taps_of = [&](const Degrees& degrees) {
    SmallJob job = GetParam().job(degrees);
    Taps taps;
    job.before = [&](Machine& machine) { taps.read(machine); };
    run_small_job(job, 0);
    return taps.all();
  };
  const auto alone = taps_of({1, 1, 1});
  EXPECT_EQ(alone.size(), 4 * (some_exits().size() + (GetParam().taught ? 1 : 0)));  // 8 samples, 2 a microbatch
  EXPECT_EQ(alone.contains({0, kFinalTap}), GetParam().taught);
  for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 2, 2}, Degrees{1, 4, 1}}) EXPECT_EQ(taps_of(degrees), alone);
  for (const auto& [place, bytes] : taps_of({2, 2, 2})) {
    const std::string& expected = alone.at(place);
    ASSERT_EQ(bytes.size(), expected.size());
    const auto *a = reinterpret_cast<const float*>(bytes.data()), *b = reinterpret_cast<const float*>(expected.data());
    for (std::size_t i = 0; i < bytes.size() / sizeof(float); ++i) EXPECT_NEAR(a[i], b[i], 1e-4 * (1 + std::abs(b[i])));
  }
}

class MachineGivenTaps : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(All, MachineGivenTaps, ::testing::Bool(),
                         [](const auto& taught) { return taught.param ? "of_the_final_head_too" : "of_exits"; });

TEST_P(MachineGivenTaps, TakeNoMemoryOfTheBackbone) {
  SmallJob job = frozen_job("llama", false, {1, 1, 1});
  if (GetParam()) teach(job);
  std::erase_if(job.options.exits, [](const ExitSpec& exit) { return exit.shared_norm || exit.shared_output; });
  const StepResult ran = run_small_job(job, 0);
  job.options.given_taps = true;
  job.evaluates = false;
  const StepResult given = run_small_job(job, 0);
  EXPECT_EQ(given.frozen.contains("lm_head.weight"), GetParam());
  EXPECT_FALSE(given.frozen.contains("model.norm.weight"));
  std::size_t elements = 0;
  for (const auto& [name, values] : given.frozen) elements += values.size();
  for (const auto& [name, values] : given.weights) elements += values.size();
  const MemoryPlan &a = ran.peaks.front().first, &b = given.peaks.front().first;
  EXPECT_LT(b.parameters, 4 * elements + 64 * (given.frozen.size() + given.weights.size()) + 4096);  // padding
  EXPECT_LT(b.parameters, a.parameters);
  EXPECT_EQ(b.gradients, a.gradients);
  EXPECT_EQ(b.optimizer, a.optimizer);
  EXPECT_EQ(b.activations, a.activations);
}

}  // namespace
}  // namespace offramp::testing
