// AdamW, SGD and the sum of squares that clipping needs.
#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

constexpr double kBeta1 = 0.9;

// learning rate, clip factor, 1 - beta^3 of both betas
Operand scalars(float clip = 0.75f, double beta2 = 0.95) {
  return input("scalars", {4}, [=](std::int64_t i) {
    return std::array{0.01, double{clip}, 1 - std::pow(kBeta1, 3), 1 - std::pow(beta2, 3)}[static_cast<Index>(i)];
  });
}

struct AdamCase {
  std::int64_t n;
  float clip = 0.75f;
  double beta2 = 0.95, first_v = 0.01;
};

// The betas and what is left of 1 are doubles in the reference.
Case adamw_case(AdamCase a) {
  const AdamW options{.beta1 = static_cast<float>(kBeta1),
                      .beta2 = static_cast<float>(a.beta2),
                      .eps = 1e-3f,
                      .weight_decay = 0.1f,
                      .lr_scale = 0.5f,
                      .one_minus_beta1 = static_cast<float>(1 - kBeta1),
                      .one_minus_beta2 = static_cast<float>(1 - a.beta2)};
  Operand v = updated("v", {a.n});
  v.fill = [=](std::int64_t i) { return a.first_v * static_cast<double>(1 + i % 9); };
  return {
      .name = fmt::format("adamw n={} clip={} beta2={}", a.n, a.clip, a.beta2),
      .operands = {required(updated("weight", {a.n})), required(updated("m", {a.n})), required(v), input("grad", {a.n}),
                   scalars(a.clip, a.beta2)},
      .run = [=](Context& c, const Tensors& t) { adamw(c, t["weight"], t["master"], t["m"], t["v"], t["grad"], t["scalars"], options); },
      .reference =
          [=](Values& x) {
            const auto& s = x["scalars"];
            if (s[1] == 0) return;
            const double rate = s[0] * options.lr_scale;
            for (Index i = 0; i < static_cast<Index>(a.n); ++i) {
              const double g = x["grad"][i] * s[1];
              x["m"][i] = kBeta1 * x["m"][i] + (1 - kBeta1) * g;
              x["v"][i] = a.beta2 * x["v"][i] + (1 - a.beta2) * g * g;
              x["weight"][i] -= rate * options.weight_decay * x["weight"][i];
              x["weight"][i] -= rate * (x["m"][i] / s[2]) / (std::sqrt(x["v"][i] / s[3]) + options.eps);
            }
          }};
}

struct Step {
  std::int64_t n;
  float momentum;
  bool nesterov;
  float clip = 0.75f;
};

Case sgd_case(Step step) {
  const Sgd options{.momentum = step.momentum, .weight_decay = 0.1f, .lr_scale = 2, .nesterov = step.nesterov};
  const bool moving = step.momentum != 0;
  Case c{.name = fmt::format("sgd n={} momentum={} nesterov={} clip={}", step.n, step.momentum, step.nesterov, step.clip),
         .operands = {required(updated("weight", {step.n})), input("grad", {step.n}), scalars(step.clip)},
         .run = [=](Context& context,
                    const Tensors& t) { sgd(context, t["weight"], t["master"], t["velocity"], t["grad"], t["scalars"], options); },
         .reference =
             [=](Values& x) {
               const auto& s = x["scalars"];
               if (s[1] == 0) return;
               const double rate = s[0] * options.lr_scale;
               for (Index i = 0; i < static_cast<Index>(step.n); ++i) {
                 double g = x["grad"][i] * s[1];
                 x["weight"][i] -= rate * options.weight_decay * x["weight"][i];
                 if (moving) {
                   double& velocity = x["velocity"][i];
                   velocity = step.momentum * velocity + g;
                   g = step.nesterov ? g + step.momentum * velocity : velocity;
                 }
                 x["weight"][i] -= rate * g;
               }
             }};
  if (moving) c.operands.push_back(required(updated("velocity", {step.n})));
  return c;
}

Case sum_of_squares_case(std::int64_t n) {
  return {.name = fmt::format("sum_of_squares n={}", n),
          // A naive sum of n terms errs by up to n units.
          .operands = {required(of_type(updated("sum", {1}, static_cast<double>(n + 8)), DType::f64)), input("x", {n})},
          .run = [](Context& c, const Tensors& t) { sum_of_squares(c, t["sum"], t["x"]); },
          .reference =
              [](Values& v) {
                for (const double x : v["x"]) v["sum"][0] += x * x;
              }};
}

// The case with a bf16 weight: what was the weight is its master, and the weight, which held something else, its rounding.
Case with_master(Case c, std::int64_t n) {
  c.name += " master";
  for (Operand& o : c.operands) {
    if (o.name == "weight") o.name = "master";
  }
  c.operands.push_back(required(of_type(output("weight", {n}), DType::bf16)));
  c.reference = [of_f32 = c.reference](Values& v) {
    Values full = v;
    full["weight"] = v["master"];
    of_f32(full);
    full["master"] = full["weight"];
    v = full;
  };
  return c;
}

TEST(Optimizer, AdamW) {
  for (const std::int64_t n : {1, 7, 1000, 70'001}) {
    check_case(adamw_case({n}));
    check_case(with_master(adamw_case({n}), n));
  }
}

// In fp32, 1 - 0.9999 is wrong by 1.7e-4 of itself, and so is a second moment that begins at zero.
TEST(Optimizer, AdamWithABetaNearOne) {
  for (const double beta2 : {0.999, 0.9999}) check_case(adamw_case({.n = 1000, .beta2 = beta2, .first_v = 0}));
}

TEST(Optimizer, Sgd) {
  for (const std::int64_t n : {1, 7, 1000, 70'001}) {
    for (const Case& c : {sgd_case({n, 0, false}), sgd_case({n, 0.9f, false}), sgd_case({n, 0.9f, true})}) {
      check_case(c);
      check_case(with_master(c, n));
    }
  }
}

// Not one unit beside it, and the same master as without a rounded weight.
TEST(Optimizer, TheWeightIsItsMasterRounded) {
  for (const Case& c : {adamw_case({1000}), sgd_case({1000, 0.9f, true})}) {
    Case plain = c;
    const Values values = initial_values(with_master(c, 1000));
    plain.operands[0].fill = [&](std::int64_t i) { return values.at("master")[static_cast<Index>(i)]; };
    const Values full = run_case(plain).values, rounded = run_case(with_master(c, 1000)).values;
    EXPECT_TRUE(same_bits(rounded.at("master"), full.at("weight"))) << c.name;
    for (Index i = 0; i < 1000; ++i) ASSERT_EQ(rounded.at("weight")[i], rounded_to_bf16(rounded.at("master")[i])) << c.name << " " << i;
  }
}

TEST(Optimizer, ARoundedWeightNeedsAMasterAndAFullOneHasNone) {
  EXPECT_THROW(run_case(in_bf16(adamw_case({5}), {"weight"})), Error);
  Case c = sgd_case({5, 0, false});
  c.operands.push_back(required(updated("master", {5})));
  EXPECT_THROW(run_case(c), Error);
}

// Not even a NaN gradient gets through a clip factor of zero.
TEST(Optimizer, ZeroClipTouchesNothing) {
  for (Case c : {adamw_case({33, 0}), sgd_case({33, 0.9f, true, 0}), with_master(adamw_case({33, 0}), 33)}) {
    for (Operand& o : c.operands) {
      if (o.name == "grad") o.fill = [](std::int64_t) { return std::numeric_limits<double>::quiet_NaN(); };
    }
    if (c.operands.back().name == "weight") c.operands.back().role = Role::updated;  // so that it starts as numbers
    const Values before = initial_values(c), after = run_case(c).values;
    for (const char* name : {"weight", "master", "m", "v", "velocity"}) {
      EXPECT_TRUE(!before.count(name) || before.at(name) == after.at(name)) << c.name << " " << name;
    }
  }
}

// The first Adam step from zero moves each weight by the learning rate, whatever the gradient's size.
TEST(Optimizer, FirstAdamStepIsTheLearningRate) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor p = arena.tensor({2}, DType::f32), m = arena.tensor({2}, DType::f32), v = arena.tensor({2}, DType::f32);
  const Tensor g = arena.tensor({2}, DType::f32), s = arena.tensor({4}, DType::f32);
  g.as<float>()[0] = 1e-3f, g.as<float>()[1] = -50.0f;
  const float values[] = {0.1f, 1.0f, 1 - 0.9f, 1 - 0.95f};
  std::copy(std::begin(values), std::end(values), s.as<float>());
  adamw(context, p, {}, m, v, g, s, {});
  EXPECT_NEAR(p.as<float>()[0], -0.1, 2e-6);  // eps is 1e-5 of this gradient
  EXPECT_NEAR(p.as<float>()[1], 0.1, 1e-7);
}

TEST(Optimizer, MomentumNeedsAVelocity) {
  Case c = sgd_case({5, 0.9f, false});
  c.operands.pop_back();
  EXPECT_THROW(run_case(c), Error);
}

TEST(SumOfSquares, AddsInDouble) {
  for (const std::int64_t n : {1, 31, 16384, 16385, 70'001}) check_case(sum_of_squares_case(n));
}

TEST(SumOfSquares, ShowsNaNAndInfinity) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const std::int64_t at : {0, 40'000, 70'000}) {
      Case c = sum_of_squares_case(70'001);
      c.operands[1].fill = [=](std::int64_t i) { return i == at ? bad : 1.0; };
      EXPECT_FALSE(std::isfinite(run_case(c).values["sum"][0])) << bad << " at " << at;
    }
  }
}

// 1e30 squared overflows a float.
TEST(SumOfSquares, DoesNotOverflowWhereFloatWould) {
  Case c = sum_of_squares_case(3);
  c.operands[1].fill = [](std::int64_t) { return 1e30; };
  EXPECT_NEAR(run_case(c).values["sum"][0] / 3e60, 1, 1e-6);
}

}  // namespace
}  // namespace offramp::testing
