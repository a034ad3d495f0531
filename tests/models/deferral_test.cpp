// A unit whose weight gradients wait, or whose attention is made again, gives the bits of one that does neither.
#include <array>

#include "rig.h"

namespace offramp::testing {
namespace {

struct Way {
  Keep keep = Keep::everything;
  bool split = false;
};
constexpr std::array kWays{Way{Keep::everything, true}, Way{Keep::all_but_attention, false}, Way{Keep::all_but_attention, true}};

struct Bytes {
  std::size_t stash = 0, deferred = 0, scratch = 0;
  bool operator==(const Bytes&) const = default;
};

struct Result {
  std::vector<float> dx;
  std::vector<std::vector<float>> gradients;
  Bytes bytes;
};

// Backward works in place, as a pipeline's does, and the gradient is overwritten before weight gradients run: what they need of it must
// have been put aside.
Result run(Rig& rig, Model& model, int number, Way way, const Draws& draws) {
  Module& unit = *model.units[static_cast<std::size_t>(number)].module;
  const auto visit = [&](const Visitor& visitor) { unit.visit(visitor); };
  const std::size_t mark = rig.memory.mark();
  const std::int64_t rows = model.tensor.rows(kTokens), hidden = model.config.hidden_size;
  const Tensor x = number == 0 ? rig.integers({kTokens}, [](std::int64_t i) { return i * i % 5; }) : rig.numbers("x", {rows, hidden});
  const Tensor y = rig.tensor({rows, hidden}), gradient = rig.numbers("dy", y.shape);
  const auto arena = [&](int region) { return Arena(rig.real() ? Backing::host : Backing::none, std::size_t{1} << 20, region); };
  Arena stash = arena(1), deferred = arena(2), scratch = arena(3);  // of this run alone, so that their peaks are its own
  rig.ctx.scratch = &scratch;
  if (rig.real()) zero_gradients(rig, visit);
  Slot slot(stash, way.keep, one_document(), draws);
  unit.forward(rig.ctx, y, x, slot);
  if (way.split) slot.defer(deferred);
  slot.begin_unit(number);
  unit.backward(rig.ctx, number == 0 ? Tensor{} : gradient, gradient, slot);
  EXPECT_TRUE(slot.empty());
  Result result{.bytes = {stash.peak(), deferred.peak(), 0}};
  if (rig.real()) {
    result.dx = values(gradient);
    fill_zero(rig.ctx, gradient);
  }
  slot.run_deferred(rig.ctx, number, number + 1);
  if (rig.real()) result.gradients = gradients(visit);
  result.bytes.scratch = scratch.peak();
  rig.ctx.scratch = &rig.scratch;
  rig.memory.release(mark);
  return result;
}

class Deferral : public ::testing::TestWithParam<std::tuple<const char*, int, bool>> {
 protected:
  int unit() const { return std::get<1>(GetParam()); }
  ModelConfig config() const {
    ModelConfig config = tiny_config(std::get<0>(GetParam()));
    if (drops()) config.attention_dropout = 0.3, config.hidden_dropout = 0.2;
    return config;
  }
  bool drops() const { return std::get<2>(GetParam()); }
  Draws draws() const { return drops() ? half_fall() : Draws{}; }
};
constexpr std::array kUnits{"embedding", "attention", "mlp"};
INSTANTIATE_TEST_SUITE_P(All, Deferral, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Range(0, 3), ::testing::Bool()),
                         [](const auto& p) {
                           return fmt::format("{}_{}{}", std::get<0>(p.param), kUnits[static_cast<std::size_t>(std::get<1>(p.param))],
                                              std::get<2>(p.param) ? "_dropping" : "");
                         });

TEST_P(Deferral, GivesTheSameBits) {
  Rig rig(Backing::host);
  const auto model = make_model(rig, config(), {});
  const Result plain = run(rig, *model, unit(), {}, draws());
  for (const Way& way : kWays) {
    const Result other = run(rig, *model, unit(), way, draws());
    EXPECT_EQ(other.dx, plain.dx) << way.split;
    EXPECT_EQ(other.gradients, plain.gradients) << way.split;
  }
}

TEST_P(Deferral, TakesThePlannedBytes) {
  Rig real(Backing::host), planned(Backing::none);
  const auto model = make_model(real, config(), {}), plan = make_model(planned, config(), {});
  for (const Way& way : kWays) EXPECT_EQ(run(planned, *plan, unit(), way, draws()).bytes, run(real, *model, unit(), way, draws()).bytes);
}

// Attention's output, [tokens, heads], is what is not kept.
TEST(Selective, KeepsLessOfAttentionAlone) {
  Rig rig(Backing::none);
  const auto model = make_model(rig, tiny_config(), {});
  const auto stash = [&](int unit, Keep keep) { return run(rig, *model, unit, {keep}, {}).bytes.stash; };
  EXPECT_EQ(stash(1, Keep::everything) - stash(1, Keep::all_but_attention), aligned(kTokens * 16 * sizeof(float)));
  EXPECT_EQ(stash(2, Keep::everything), stash(2, Keep::all_but_attention));
}

// What waits is this rank's rows of dy and of the normed x, and its columns of the activation: nothing is there as often as there are
// ranks.
TEST(DeferralOfRows, AreARanksOwn) {
  Rig rig(Backing::none);
  const auto deferred = [&](bool sequence) {
    const auto model = make_model(rig, tiny_config(), {}, {.tensor = {Group::planned(0, 2, Wire::tensor), sequence}});
    const Bytes bytes = run(rig, *model, 2, {Keep::everything, true}, {}).bytes;
    const std::int64_t rows = model->tensor.rows(kTokens), columns = model->config.intermediate_size / 2;
    EXPECT_EQ(bytes.deferred, 2 * aligned(static_cast<std::size_t>(rows * 16) * sizeof(float)) +
                                  aligned(static_cast<std::size_t>(kTokens * columns) * sizeof(float)));
    return bytes.deferred;
  };
  EXPECT_LT(deferred(true), deferred(false));
}

}  // namespace
}  // namespace offramp::testing
