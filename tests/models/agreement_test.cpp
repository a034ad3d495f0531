// Every unit and every head kind, one forward and backward each: over tensor groups and in bf16 they give the numbers of one rank in
// f32, and what falls at random is the same everywhere.
#include "pass.h"

namespace offramp::testing {
namespace {

constexpr std::array<float, 1> kHalf{0.5f}, kAlways{1.0f};

using Case = std::tuple<const char*, int>;  // architecture, part
class Parts : public ::testing::TestWithParam<Case> {
 protected:
  // Sizes that four ranks share; with two blocks of 33 columns each.
  Setting setting() const {
    Setting s{.config = tiny_config(std::get<0>(GetParam()))};
    s.config.num_key_value_heads = 4;
    s.config.num_attention_heads = s.config.gpt2() ? 4 : 8;
    s.config.intermediate_size = 264;
    return s;
  }
  Setting dropping() const {
    Setting s = setting();
    s.config.attention_dropout = 0.3, s.config.hidden_dropout = 0.2;
    s.draws = {.on = true, .seed = 2, .first_sample = 4, .layer_rates = kHalf};
    return s;
  }
  int part = std::get<1>(GetParam());
  bool is_unit() const { return part < kUnits; }
};
std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  return std::string(std::get<0>(info.param)) + "_" + kParts[static_cast<std::size_t>(std::get<1>(info.param))];
}
INSTANTIATE_TEST_SUITE_P(All, Parts, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Range(0, 9)), name_of_case);

void expect_same_at_every_degree(Setting setting, int part, double tolerance) {
  const Outcome alone = run(setting, part);
  for (const int size : {2, 4})
    for (const bool sequence : {false, true}) {
      SCOPED_TRACE(std::to_string(size) + " ranks" + (sequence ? ", rows split" : ""));
      setting.size = size, setting.sequence = sequence;
      expect_close(run(setting, part), alone, tolerance);
    }
}

TEST_P(Parts, TensorGroupsGiveTheNumbersOfOneRank) { expect_same_at_every_degree(setting(), part, kAnotherOrder); }

TEST_P(Parts, WhatFallsIsTheSameAtEveryDegree) { expect_same_at_every_degree(dropping(), part, kAnotherOrder); }

TEST_P(Parts, DetachedHeadsOverTensorGroups) {
  Setting s = setting();
  s.detach = true;
  if (!is_unit()) expect_same_at_every_degree(s, part, kAnotherOrder);
}

TEST_P(Parts, TaughtHeadsOverTensorGroups) {
  if (is_unit()) return;
  Setting s = setting();
  s.taught = true;
  for (const auto& [target, temperature] :
       {std::pair{Target::labels, 1.0f}, {Target::argmax, 1.0f}, {Target::distribution, 1.0f}, {Target::distribution, 2.5f}}) {
    SCOPED_TRACE(fmt::format("target {} at {}", static_cast<int>(target), temperature));
    s.target = target, s.temperature = temperature;
    s.precision = DType::f32;
    const Outcome exact = run(s, part);
    expect_same_at_every_degree(s, part, kAnotherOrder);
    s.precision = DType::bf16;
    expect_close(run(s, part), exact, kBf16);
    expect_same_at_every_degree(s, part, kBf16);
  }
}

TEST_P(Parts, Bf16IsF32ButForItsRounding) {
  Setting s = setting();
  const Outcome exact = run(s, part);
  s.precision = DType::bf16;
  const Outcome rounded = run(s, part);
  expect_close(rounded, exact, kBf16);
  const std::string what = part == 0 ? "y" : "dx";
  EXPECT_NE(rounded.at(what).values, exact.at(what).values);
}

TEST_P(Parts, Bf16OverTensorGroups) {
  Setting s = setting();
  s.precision = DType::bf16;
  expect_same_at_every_degree(s, part, kBf16);
}

TEST_P(Parts, DrawsMatterOnlyWhereSomethingFalls) {
  Setting s = dropping();
  const Outcome fallen = run(s, part);
  s.draws.on = false;
  const Outcome evaluated = run(s, part);
  // A Llama's embedding drops too; a bare head and a norm have nothing to drop.
  const bool drops = is_unit() || (part >= 5 && part <= 7);
  EXPECT_EQ(fallen.at(is_unit() ? "y" : "dx").values != evaluated.at(is_unit() ? "y" : "dx").values, drops);
  s.config.attention_dropout = s.config.hidden_dropout = 0;
  s.draws.on = true;
  s.draws.layer_rates = {};
  const Outcome nothing = run(s, part);
  for (const auto& [name, numbers] : nothing) EXPECT_EQ(numbers.values, evaluated.at(name).values) << name;
}

// Other samples or another seed, other masks.
TEST_P(Parts, MasksAreOfTheSampleAndTheSeed) {
  Setting s = dropping();
  const std::string what = is_unit() ? "y" : "dx";
  if (!is_unit() && (part < 5 || part > 7)) return;
  const Outcome first = run(s, part);
  s.draws.first_sample = 10;
  const Outcome other_sample = run(s, part);
  EXPECT_NE(other_sample.at(what).values, first.at(what).values);
  s.draws = dropping().draws, s.draws.seed = 6;
  EXPECT_NE(run(s, part).at(what).values, first.at(what).values);
}

// LayerSkip leaves out units of its layers for a sample; never the embedding, nor an exit's own.
TEST_P(Parts, LayersFallWholeForASample) {
  Setting s = setting();
  const Outcome whole = run(s, part);
  s.draws = {.on = true, .seed = 2, .first_sample = 4, .layer_rates = kHalf};
  for (const int size : {1, 2}) {
    s.size = size, s.sequence = size > 1;
    const Outcome half = run(s, part);
    if (part != 1 && part != 2) {
      expect_close(half, whole, kAnotherOrder);
      continue;
    }
    Rig rig(Backing::host);
    const std::vector<float> x = values(rig.numbers("x", {kTokens, 16})), dy = values(rig.numbers("dy", {kTokens, 16}));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool falls = i < kSequence * 16;  // the first sample of two
      EXPECT_EQ(half.at("y").values[i] == x[i], falls) << i;
      EXPECT_EQ(half.at("dx").values[i] == dy[i], falls) << i;
      EXPECT_TRUE(falls || std::abs(half.at("y").values[i] - whole.at("y").values[i]) < 16 * kAnotherOrder) << i;
    }
  }
}

TEST_P(Parts, LayersThatFallForAllCostNothing) {
  if (part != 1 && part != 2) return;
  for (const int size : {1, 2, 4})
    for (const bool sequence : {false, true}) {
      Setting s = dropping();
      s.draws.layer_rates = kAlways, s.size = size, s.sequence = sequence;
      const Outcome none = run(s, part);
      Rig rig(Backing::host);
      EXPECT_EQ(none.at("y").values, values(rig.numbers("x", {kTokens, 16})));
      EXPECT_EQ(none.at("dx").values, values(rig.numbers("dy", {kTokens, 16})));
      for (const auto& [name, numbers] : none) EXPECT_EQ(norm(numbers.values) != 0, name == "y" || name == "dx") << name;
    }
  Rig rig(Backing::host);
  const auto model = make_model(rig, tiny_config(std::get<0>(GetParam())), {});
  const Tensor x = rig.numbers("x", {kTokens, 16}), y = rig.like(x);
  run_unit(rig, *model->units[static_cast<std::size_t>(part)].module, Keep::everything, y, x, {.length = kSequence}, y, y,
           {.on = true, .layer_rates = kAlways});
  EXPECT_EQ(rig.slab.peak() + rig.scratch.peak(), 0u);
}

}  // namespace
}  // namespace offramp::testing
