// Every unit and every head kind, one forward and backward each: over tensor groups and in bf16 they give the numbers of one rank in
// f32, and what falls at random is the same everywhere.
#include <map>
#include <mutex>

#include "comm/in_process.h"
#include "rig.h"
#include "tests/close.h"

namespace offramp::testing {
namespace {

// Numbers of which each rank of a group holds all, or its part (with zeros elsewhere), or its summand.
struct Numbers {
  bool everywhere = false;
  std::vector<float> values;
};
using Outcome = std::map<std::string, Numbers>;  // "y", "dx", "sums", and gradients by logical name

struct Setting {
  ModelConfig config = tiny_config();
  DType precision = DType::f32;
  Draws draws;
  bool detach = false;
  bool taught = false;  // exits stand beside the final head as their teacher
  Target target = Target::labels;
  int size = 1;  // of the tensor group
  bool sequence = false;
};

constexpr std::array kParts{"embedding", "attention", "mlp", "bare", "norm", "mlp_head", "block_head", "attention_head", "final"};
constexpr int kUnits = 3;

// What one rank of a group computes of a part.
class Pass {
 public:
  Pass(const Setting& setting, const Group& group) : setting_(setting), tensor_{group, setting.sequence} {
    std::vector<ExitSpec> exits = every_exit();
    for (ExitSpec& exit : exits) exit.detach = setting.detach, exit.confidence_weights = exit.layer % 2 == 0, exit.target = setting.target;
    model_ = make_model(rig_, setting.config, exits, {tensor_, setting.precision});
  }

  Outcome run(int part) {
    const auto visit = [&](const Visitor& v) { part < kUnits ? unit(part).visit(v) : head(part).visit(v); };
    zero_gradients(rig_, visit);
    part < kUnits ? run_unit_of(part) : run_head_of(part);
    visit([this](Parameter& p) { keep(p); });
    return std::move(outcome_);
  }

 private:
  Module& unit(int part) { return *model_->units[static_cast<std::size_t>(part)].module; }
  Head& head(int part) { return model_->heads[static_cast<std::size_t>(part - kUnits)]; }

  Tensor rows(const std::string& name) {  // of numbers that are the same at every degree
    const Tensor all = rig_.numbers(name, {kTokens, setting_.config.hidden_size});
    const Tensor typed = rig_.tensor(all.shape, setting_.precision);
    copy(rig_.ctx, typed, all);
    return typed.narrow(0, tensor_.first_row(kTokens), tensor_.rows(kTokens));
  }
  void run_unit_of(int part) {
    const Tensor x = part == 0 ? rig_.integers({kTokens}, [](std::int64_t i) { return i * 7 % 37; }) : rows("x");
    const Tensor dy = rows("dy"), y = rig_.like(dy), dx = part == 0 ? Tensor{} : rig_.like(dy);
    run_unit(rig_, unit(part), Keep::everything, y, x, two_documents(rig_), dx, dy, setting_.draws);
    keep("y", y);
    if (part > 0) keep("dx", dx);
  }
  void run_head_of(int part) {
    const Tensor x = rows("x"), scale = rig_.tensor({1}), sums = rig_.tensor({kLossSums}, DType::f64);
    const Tensor d_tap = setting_.detach && part + 1 < std::ssize(kParts) ? Tensor{} : rig_.like(x);
    const Tensor labels = rig_.integers({kTokens}, [](std::int64_t i) { return i % 5 == 3 ? -1 : i * 7 % 37; });
    *scale.as<float>() = 0.25f;
    fill_zero(rig_.ctx, sums);
    const Teacher teacher{setting_.taught ? rows("teacher") : Tensor{}, &model_->heads.back().output()};
    head(part).exit(rig_.ctx, d_tap, sums, {x, labels, scale, setting_.draws, teacher}, two_documents(rig_), true);
    outcome_["sums"].values = {sums.as<double>(), sums.as<double>() + kLossSums};
    if (d_tap.defined()) keep("dx", d_tap);
  }

  void keep(const std::string& name, Tensor part) {
    Numbers& all = outcome_[name];
    all.everywhere = !tensor_.splits_rows();
    all.values.resize(static_cast<std::size_t>(kTokens * part.shape[1]));
    const std::vector<float> mine = values(part);
    std::copy(mine.begin(), mine.end(), all.values.begin() + tensor_.first_row(kTokens) * part.shape[1]);
  }
  void keep(const Parameter& p) {
    for (const Piece& piece : p.pieces) {
      if (setting_.detach && (piece.name.starts_with("model.layers.") || piece.name.starts_with("transformer.h."))) {
        // Its layer's norm, which a detached exit leaves alone.
        EXPECT_EQ(values(p.grad), std::vector<float>(static_cast<std::size_t>(p.grad.elements()))) << piece.name;
        continue;
      }
      Numbers& all = outcome_[piece.name];
      all.everywhere = p.replicated && !tensor_.splits_rows();
      all.values.resize(static_cast<std::size_t>(piece.global.elements()));
      runs(piece, [&](const Run& run) { std::copy_n(p.grad.as<float>() + run.local, run.count, all.values.begin() + run.global); });
    }
  }

  Setting setting_;
  TensorParallel tensor_;
  Rig rig_{Backing::host};
  std::shared_ptr<Model> model_;
  Outcome outcome_;
};

void merge(Outcome& all, const Outcome& of_rank) {
  for (const auto& [name, numbers] : of_rank) {
    const auto [it, fresh] = all.emplace(name, numbers);
    if (fresh) continue;
    if (numbers.everywhere) {
      EXPECT_EQ(numbers.values, it->second.values) << name << " has other bits on another rank";
      continue;
    }
    for (std::size_t i = 0; i < numbers.values.size(); ++i) it->second.values[i] += numbers.values[i];
  }
}

Outcome run(const Setting& setting, int part) {
  if (setting.size == 1) return Pass(setting, {}).run(part);
  Outcome all;
  std::mutex mutex;
  run_in_process(setting.size, [&](Group world) {
    const Outcome mine = Pass(setting, world).run(part);
    const std::lock_guard lock(mutex);
    merge(all, mine);
  });
  return all;
}

ByName numbers_of(const Outcome& outcome) {
  ByName all;
  for (const auto& [name, numbers] : outcome) all[name] = numbers.values;
  return all;
}

void expect_close(const Outcome& outcome, const Outcome& expected, double tolerance) {
  ASSERT_EQ(outcome.size(), expected.size());
  testing::expect_close(numbers_of(outcome), numbers_of(expected), tolerance, "pass");
}

// Products of at most 264 terms, summed in another order, behind a few others: fp32 rounds each addition by 2^-24 of a sum that grows
// like the root of the terms, so that 32 roundings are far from reached.
constexpr double kAnotherOrder = 32 * 0x1p-24;
// In bf16 at most two dozen tensors lie between x and a gradient, each rounded by at most 2^-9 of every element.
constexpr double kBf16 = 24 * 0x1p-9;

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
  for (const Target target : {Target::labels, Target::argmax, Target::distribution}) {
    SCOPED_TRACE("target " + std::to_string(static_cast<int>(target)));
    s.target = target;
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
