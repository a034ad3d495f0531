// From gradients to weights, on a model of one stage whose gradients are given.
#include "optim/update.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tensor/random.h"

namespace offramp {
namespace {

constexpr const char* kGuest = "exits.1.norm.weight";  // pretended to be another stage's

struct Subject {
  explicit Subject(const OptimizerConfig& config = {.lr = 0.5}, FlatOptions options = {})
      : model(build_model({.num_hidden_layers = 2,
                           .hidden_size = 16,
                           .intermediate_size = 24,
                           .num_attention_heads = 4,
                           .num_key_value_heads = 2,
                           .vocab_size = 37,
                           .max_position_embeddings = 8,
                           .tie_word_embeddings = true},
                          std::vector<ExitSpec>{{.layer = 1, .loss_weight = 1, .lr_scale = 4}})),
        flat(memory, entries(), with_state(std::move(options), config)) {
    ctx.scratch = &scratch;
    for (Parameter* p : flat.holders()) fill(p->value, "value of " + p->name());
    for (const FlatEntry& e : entries()) fill(e.parameter->grad, "gradient of " + e.parameter->name());
  }

  std::vector<FlatEntry> entries() {
    std::vector<FlatEntry> all;
    const Visitor add = [&](Parameter& p) {
      const bool tied = p.name() == "model.embed_tokens.weight", guest = p.name() == kGuest;
      all.push_back({&p, 0, tied ? 0 : guest ? 1 : -1, !guest});
    };
    for (Head& head : model.heads) head.visit(add);
    for (auto unit = model.units.rbegin(); unit != model.units.rend(); ++unit) unit->module->visit(add);
    return all;
  }
  static FlatOptions with_state(FlatOptions options, const OptimizerConfig& config) {
    options.optimizer_state = optimizer_state(config);
    return options;
  }
  static void fill(Tensor t, const std::string& name) {
    for (std::int64_t i = 0; i < t.elements(); ++i)
      t.reshape({t.elements()}).as<float>()[i] = normal({.seed = 3, .id = hash(name)}, static_cast<std::uint64_t>(i));
  }
  std::vector<double> squares(int tensor_rank = 0) {
    const Tensor sums = memory.tensor({names.size()}, DType::f64);
    gradient_squares(ctx, flat, names, tensor_rank, sums);
    return {sums.as<double>(), sums.as<double>() + sums.elements()};
  }

  Arena memory{Backing::host, 8 << 20}, scratch{Backing::host, 1 << 20};
  Context ctx;
  Model model;
  Flat flat;
  LogicalNames names{model};
};

TEST(LogicalNames, AreEveryTensorOnceInOrder) {
  Subject s;
  std::set<std::string> expected;
  for (const FlatEntry& e : s.entries())
    for (const Piece& piece : e.parameter->pieces) expected.insert(piece.name);
  ASSERT_EQ(s.names.size(), 2 * 9 + 1 + 1 + 2);  // two layers, embedding (also the output), final norm, exit
  std::int64_t number = 0;
  for (const std::string& name : expected) {
    EXPECT_EQ(s.names.name(number), name);
    EXPECT_EQ(s.names.number(name), number++);
  }
  EXPECT_THROW(s.names.number("lm_head.weight"), std::out_of_range);
}

TEST(GradientSquares, AreOfEveryOwnedTensorByName) {
  Subject s;
  std::vector<double> expected(static_cast<std::size_t>(s.names.size()), 0.0);
  for (const Parameter* p : s.flat.owned())
    for (const Piece& piece : p->pieces)
      runs(piece, [&](const auto& run) {
        for (std::int64_t i = 0; i < run.count; ++i)
          expected[static_cast<std::size_t>(s.names.number(piece.name))] += std::pow(p->grad.as<float>()[run.local + i], 2.0);
      });
  const Tensor whole = s.memory.tensor({s.names.size()}, DType::f64);
  gradient_squares(s.ctx, s.flat, s.names, 0, whole);
  double sum = 0;
  for (std::int64_t i = 0; i < s.names.size(); ++i) {
    const double want = expected[static_cast<std::size_t>(i)];
    if (s.names.name(i) == kGuest) {
      EXPECT_EQ(whole.as<double>()[i], 0) << "a guest's owner counts it";
    } else {
      EXPECT_GT(want, 0) << s.names.name(i);
      EXPECT_NEAR(whole.as<double>()[i], want, 2000 * 0x1p-53 * want) << s.names.name(i);  // at most 2000 terms added
    }
    sum += want;
  }
  EXPECT_NEAR(gradient_norm(whole), std::sqrt(sum), 1e-12 * std::sqrt(sum));
  gradient_squares(s.ctx, s.flat, s.names, 0, whole);
  EXPECT_NEAR(gradient_norm(whole), std::sqrt(2 * sum), 1e-12 * std::sqrt(sum)) << "squares are added to";
}

// Data ranks share what they all have: each the squares of its shards, whether or not it keeps state of them alone.
TEST(GradientSquares, ShardsOfAnyCountMakeTheWhole) {
  const std::vector<double> whole = Subject().squares();
  for (const int count : {1, 2, 3, 5, 64})
    for (const bool shard_state : {false, true}) {
      std::vector<double> sum(whole.size(), 0.0);
      for (int index = 0; index < count; ++index) {
        Subject s({.lr = 0.5}, {.data_rank = index, .data_size = count, .shard_state = shard_state});
        const std::vector<double> part = s.squares();
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      }
      // At most 2000 terms added, in another order.
      for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], whole[i], 2000 * 0x1p-53 * whole[i]) << count << " " << i;
    }
}

TEST(GradientSquares, WhatEveryTensorRankHoldsCountsOnTheFirst) {
  Subject s;
  std::set<std::string> replicated;
  for (const FlatEntry& e : s.entries()) {
    e.parameter->replicated = e.parameter->shape.rank == 1;  // as under tensor parallelism
    if (e.parameter->replicated) replicated.insert(e.parameter->name());
  }
  const std::vector<double> first = s.squares(0), second = s.squares(1);
  ASSERT_EQ(replicated.size(), 2 * 2 + 1 + 1);  // norms: two a layer, the final one and the exit's
  for (std::size_t i = 0; i < first.size(); ++i)
    EXPECT_EQ(second[i], replicated.contains(s.names.name(static_cast<std::int64_t>(i))) ? 0 : first[i]) << i;
}

TEST(ClipFactor, ShortensToTheLimit) {
  EXPECT_EQ(clip_factor(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_factor(4, 1), 1 / 4.000001);
  EXPECT_DOUBLE_EQ(clip_factor(4, 2.5), 2.5 / 4.000001);
  for (const double norm : {0.0, 1.0, 1e30}) EXPECT_EQ(clip_factor(norm, 0), 1) << "no clipping";
}

TEST(SetScalars, CorrectsBothMoments) {
  Arena arena(Backing::host, 64);
  const Tensor scalars = arena.tensor({4}, DType::f32);
  const auto expect = [&](std::array<double, 2> betas, std::int64_t updates, double first, double second) {
    set_scalars(scalars, {.lr = 3e-4, .clip = 0.25, .updates = updates}, {.betas = betas});
    const float* s = scalars.as<float>();
    EXPECT_EQ(s[0], 3e-4f);
    EXPECT_EQ(s[1], 0.25f);
    EXPECT_FLOAT_EQ(s[2], static_cast<float>(first));
    EXPECT_FLOAT_EQ(s[3], static_cast<float>(second));
  };
  expect({0.9, 0.95}, 1, 0.1, 0.05);
  expect({0.9, 0.95}, 3, 0.271, 0.142625);
  expect({0.5, 0.9999}, 2, 0.75, 1.9999e-4);
}

// Each element of each tensor that is held, before and after an update.
using Change = std::function<void(const Parameter&, float before, float after, float gradient)>;
void update(Subject& s, const OptimizerConfig& config, const StepScalars& step, const Change& expect) {
  const Tensor scalars = s.memory.tensor({1, 4}, DType::f32);
  set_scalars(scalars.reshape({4}), step, config);
  std::vector<std::vector<float>> before;
  for (const Parameter* p : s.flat.holders()) before.emplace_back(p->value.as<float>(), p->value.as<float>() + p->value.elements());
  apply_update(s.ctx, s.flat, config, scalars);
  for (std::size_t i = 0; i < before.size(); ++i) {
    const Parameter& p = *s.flat.holders()[i];
    for (std::size_t j = 0; j < before[i].size(); ++j) expect(p, before[i][j], p.value.as<float>()[j], p.grad.as<float>()[j]);
  }
}

// p (1 - lr scale decay) - lr scale clip g: values and steps of at most 5, three roundings of 2^-24 each.
TEST(ApplyUpdate, SgdDecaysMatricesOnlyAndScalesTheRate) {
  const OptimizerConfig config{.name = "sgd", .weight_decay = 0.125};
  Subject s(config);
  std::set<std::string> scaled;
  update(s, config, {.lr = 0.5, .clip = 0.75}, [&](const Parameter& p, float before, float after, float gradient) {
    if (p.name() == kGuest) {
      EXPECT_EQ(after, before) << "its owner updates a guest";
      return;
    }
    const double rate = 0.5 * (p.name().starts_with("exits.") ? 4 : 1), decay = p.shape.rank == 2 ? 0.125 : 0;
    ASSERT_NEAR(after, before * (1 - rate * decay) - rate * 0.75 * gradient, 2e-6) << p.name();
    if (p.name().starts_with("exits.")) scaled.insert(p.name());
  });
  EXPECT_EQ(scaled, std::set<std::string>{"exits.1.head.weight"});
}

// From zero moments, the first step of Adam is the rate in the gradient's direction, after the decay of matrices; it leaves exactly (1 -
// beta) of g and g^2.
TEST(ApplyUpdate, AdamBeginsWithTheBetasOfTheConfiguration) {
  const OptimizerConfig config{.betas = {0.9, 0.9999}, .eps = 1e-30, .weight_decay = 0.125};
  Subject s(config);
  update(s, config, {.lr = 0.5, .clip = 1}, [&](const Parameter& p, float before, float after, float gradient) {
    if (p.name() == kGuest) return;
    const double rate = 0.5 * p.lr_scale, decay = p.shape.rank == 2 ? 0.125 : 0;
    ASSERT_NEAR(after, before * (1 - rate * decay) - std::copysign(rate, gradient), 2e-6) << p.name();
  });
  const Range first = s.flat.updates().front().range;
  const Tensor m = s.flat.state("exp_avg", first), v = s.flat.state("exp_avg_sq", first), g = s.flat.gradients(first);
  for (std::int64_t i = 0; i < first.count(); ++i) {
    const double gradient = g.as<float>()[i];
    ASSERT_NEAR(m.as<float>()[i], (1 - 0.9) * gradient, 2 * 0x1p-24 * std::abs(gradient)) << i;
    ASSERT_NEAR(v.as<float>()[i], (1 - 0.9999) * gradient * gradient, 4 * 0x1p-24 * 1e-4 * gradient * gradient) << i;
  }
}

TEST(ApplyUpdate, MomentumKeepsAVelocity) {
  const OptimizerConfig config{.name = "sgd", .weight_decay = 0, .momentum = 0.5};
  Subject s(config);
  EXPECT_EQ(optimizer_state(config), std::vector<std::string>{"momentum"});
  const auto step = [&](double velocity) {  // in units of the gradient
    update(s, config, {.lr = 0.5}, [&](const Parameter& p, float before, float after, float gradient) {
      if (p.name() == kGuest) return;
      ASSERT_NEAR(after, before - 0.5 * p.lr_scale * velocity * gradient, 5e-6) << p.name();
    });
  };
  step(1);
  step(1.5);
}

TEST(Optimizers, StateByName) {
  EXPECT_EQ(optimizer_state({.name = "adamw"}), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  EXPECT_TRUE(optimizer_state({.name = "sgd"}).empty());
}

TEST(Optimizers, AnUnknownNameIsOurMistake) {
  Subject s;
  const Tensor scalars = s.memory.tensor({1, 4}, DType::f32);
  EXPECT_THROW(optimizer_state({.name = "lion"}), Error);
  EXPECT_THROW(apply_update(s.ctx, s.flat, {.name = "lion"}, scalars), Error);
}

}  // namespace
}  // namespace offramp
