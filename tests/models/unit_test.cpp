// What module.h promises of every unit beside its numbers.
#include <array>

#include "rig.h"
#include "tensor/check.h"

namespace offramp::testing {
namespace {

const Sequences kPlain{.length = kSequence};

class Units : public ::testing::TestWithParam<int> {
 protected:
  Module& unit() { return *model->units[static_cast<std::size_t>(GetParam())].module; }
  Rig rig{Backing::host};
  std::shared_ptr<Model> model = make_model(rig, tiny_config(), {});
  Tensor x = GetParam() == 0 ? rig.integers({kTokens}, [](std::int64_t i) { return i % 7; }) : rig.numbers("x", {kTokens, 16});
  Tensor y = rig.tensor({kTokens, 16});
};
constexpr std::array kUnits{"embedding", "attention", "mlp"};
const auto kName = [](const auto& which) { return std::string(kUnits[static_cast<std::size_t>(which.param)]); };
INSTANTIATE_TEST_SUITE_P(All, Units, ::testing::Range(0, 3), kName);
class HalfLayers : public Units {};  // units whose input has a gradient
INSTANTIATE_TEST_SUITE_P(All, HalfLayers, ::testing::Range(1, 3), kName);

TEST_P(Units, ForwardIsTheSameWithNothingKept) {
  run_unit(rig, unit(), Keep::everything, y, x, kPlain);
  const std::vector<float> kept = values(y);
  fill_zero(rig.ctx, y);
  run_unit(rig, unit(), Keep::nothing, y, x, kPlain);
  EXPECT_EQ(values(y), kept);
}

TEST_P(HalfLayers, BackwardWorksInPlace) {
  const auto visit = [&](const Visitor& visitor) { unit().visit(visitor); };
  const Tensor dy = rig.numbers("dy", {kTokens, 16}), dx = rig.tensor({kTokens, 16});
  zero_gradients(rig, visit);
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, dx, dy);
  const auto apart = gradients(visit);
  zero_gradients(rig, visit);
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, dy, dy);
  EXPECT_EQ(values(dy), values(dx));
  EXPECT_EQ(gradients(visit), apart);
}

TEST_P(Units, ParametersNeedNoInputGradient) {
  const auto visit = [&](const Visitor& visitor) { unit().visit(visitor); };
  const Tensor dy = rig.numbers("dy", {kTokens, 16}), dx = GetParam() == 0 ? Tensor{} : rig.tensor({kTokens, 16});
  zero_gradients(rig, visit);
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, dx, dy);
  const auto with = gradients(visit);
  zero_gradients(rig, visit);
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, {}, dy);
  EXPECT_EQ(gradients(visit), with);
}

TEST_P(HalfLayers, FrozenParametersLeaveTheInputGradient) {
  const Tensor dy = rig.numbers("dy", {kTokens, 16}), dx = rig.tensor({kTokens, 16});
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, dx, dy);
  const std::vector<float> trained = values(dx);
  unit().visit([](Parameter& p) { p.grad = {}; });
  run_unit(rig, unit(), Keep::everything, y, x, kPlain, dx, dy);
  EXPECT_EQ(values(dx), trained);
}

// No token's output depends on a later token, nor on another sequence.
TEST(Attention, IsCausal) {
  Rig rig(Backing::host);
  const auto model = make_model(rig, tiny_config(), {});
  const Tensor x = rig.numbers("x", {kTokens, 16}), y = rig.like(x);
  Module& unit = *model->units[1].module;
  run_unit(rig, unit, Keep::nothing, y, x, kPlain);
  const std::vector<float> before = values(y);
  for (int i = 0; i < 16; ++i) x.as<float>()[3 * 16 + i] += 1;  // token 3
  run_unit(rig, unit, Keep::nothing, y, x, kPlain);
  const std::vector<float> after = values(y);
  for (std::size_t token = 0; token < kTokens; ++token) {
    const auto row = [&](const std::vector<float>& v) {
      return std::vector<float>(v.begin() + static_cast<std::ptrdiff_t>(token * 16),
                                v.begin() + static_cast<std::ptrdiff_t>(token * 16 + 16));
    };
    EXPECT_EQ(row(before) != row(after), token >= 3 && token < 6) << token;
  }
}

TEST(Embedding, RefusesAnInputGradient) {
  Rig rig(Backing::host);
  const auto model = make_model(rig, tiny_config(), {});
  const Tensor ids = rig.integers({kTokens}, [](std::int64_t) { return 0; }), y = rig.tensor({kTokens, 16});
  EXPECT_THROW(run_unit(rig, *model->units[0].module, Keep::everything, y, ids, kPlain, rig.like(y), y), Error);
}

TEST(Slot, ThrowsWhenEmpty) {
  Rig rig(Backing::host);
  Slot nothing(rig.slab, Keep::nothing, kPlain);
  nothing.push(rig.tensor({1}));
  EXPECT_THROW(nothing.pop(), Error);
}

// Plan mode takes exactly the memory of a real run: slab and scratch, of every unit and head.
TEST(Plan, PeaksAreThoseOfARun) {
  struct Peaks {
    std::size_t slab, scratch, largest;
    bool operator==(const Peaks&) const = default;
  };
  const auto peaks = [](Backing backing, std::size_t subject) {
    Rig rig(backing);
    const Subject s = subjects(rig)[subject];
    rig.meter = {};
    const Tensor x = s.input(rig);
    s.gradient(rig, x.dtype == DType::f32 ? rig.like(x) : Tensor{}, x);
    s.loss(rig, x);
    EXPECT_EQ(rig.real(), rig.meter.total.bytes == 0);
    EXPECT_EQ(rig.scratch.used(), 0u) << s.name << ": scratch must be given back";
    return Peaks{rig.slab.peak(), rig.scratch.peak(), rig.scratch.largest()};
  };
  Rig rig(Backing::none);
  const auto all = subjects(rig);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Peaks real = peaks(Backing::host, i), planned = peaks(Backing::none, i);
    EXPECT_EQ(planned, real) << all[i].name << ": planned " << planned.slab << " + " << planned.scratch << ", real " << real.slab << " + "
                             << real.scratch;
  }
}

}  // namespace
}  // namespace offramp::testing
