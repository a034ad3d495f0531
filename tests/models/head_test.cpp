// What head.h promises of every head beside its numbers.
#include <array>
#include <cmath>
#include <map>

#include "rig.h"

namespace offramp::testing {
namespace {

constexpr std::int64_t kHidden = 16, kVocabulary = 37;

class Heads : public ::testing::TestWithParam<int> {
 protected:
  Head& head() { return model->heads[static_cast<std::size_t>(GetParam())]; }
  std::function<void(const Visitor&)> visit() {
    return [this](const Visitor& visitor) { head().visit(visitor); };
  }
  // The same model with the same values, but for its exits: they are detached.
  std::shared_ptr<Model> detached() {
    std::vector<ExitSpec> exits = every_exit();
    for (ExitSpec& exit : exits) exit.detach = true;
    return make_model(rig, tiny_config(), exits);
  }
  // Runs tokens [begin, end), adding to the gradients. Returns what it summed.
  std::vector<double> run(Tensor dx, bool train, std::int64_t begin = 0, std::int64_t end = kTokens) {
    const Tensor sums = rig.tensor({kLossSums}, DType::f64);
    fill_zero(rig.ctx, sums);
    const HeadIn in{.x = x.narrow(0, begin, end - begin), .labels = labels.narrow(0, begin, end - begin), .scale = scale};
    head().exit(rig.ctx, dx.narrow(0, begin, end - begin), sums, in, {.length = kSequence}, train);
    return {sums.as<double>(), sums.as<double>() + kLossSums};
  }
  void SetUp() override { *scale.as<float>() = 1.0f / 16; }

  Rig rig{Backing::host};
  std::shared_ptr<Model> model = make_model(rig, tiny_config(), every_exit());
  Tensor x = rig.numbers("x", {kTokens, kHidden}), d_tap = rig.like(x), scale = rig.tensor({1});
  Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i == 4 ? -1 : i * 11 % kVocabulary; });
};
constexpr std::array kHeads{"bare", "norm", "mlp", "block", "attention", "final"};
INSTANTIATE_TEST_SUITE_P(All, Heads, ::testing::Range(0, 6),
                         [](const auto& which) { return std::string(kHeads[static_cast<std::size_t>(which.param)]); });

// All but the norm that an mlp exit borrows from its layer: that belongs to the backbone.
TEST_P(Heads, DetachedTrainsItsOwnTensorsAlike) {
  const auto named = [this] {
    std::map<std::string, std::vector<float>> all;
    head().visit([&](Parameter& p) { all[p.name()] = values(p.grad); });
    return all;
  };
  zero_gradients(rig, visit());
  const auto sums = run(d_tap, true);
  const auto attached = named();
  model = detached();
  zero_gradients(rig, visit());
  EXPECT_EQ(run({}, true), sums);
  int borrowed = 0;
  for (const auto& [name, gradient] : named()) {
    const std::vector<float> nothing(gradient.size(), 0.0f);
    EXPECT_NE(attached.at(name), nothing) << name;
    borrowed += name.starts_with("model.layers.");
    EXPECT_EQ(gradient, name.starts_with("model.layers.") ? nothing : attached.at(name)) << name;
  }
  EXPECT_EQ(borrowed, head().spec().head == HeadKind::mlp ? 1 : 0);
}

// Of an attached head's products the detached mlp head leaves out the one that leads to its norm alone: d_gate_up [n, 2F] by [2F, h].
TEST(Plan, DetachedMlpHeadMakesNoGradientThatNobodyWants) {
  const auto flops = [](bool detach) {
    Rig rig(Backing::none);
    const auto model = make_model(rig, tiny_config(), {{.layer = 3, .head = HeadKind::mlp, .loss_weight = 1, .detach = detach}});
    const Tensor x = rig.tensor({kTokens, kHidden}), d_tap = detach ? Tensor{} : rig.like(x);
    const HeadIn in{.x = x, .labels = rig.tensor({kTokens}, DType::i32), .scale = rig.tensor({1})};
    model->heads[0].exit(rig.ctx, d_tap, rig.tensor({kLossSums}, DType::f64), in, {.length = kSequence}, true);
    return rig.meter.operations.at("linear_backward_input").flops;
  };
  EXPECT_EQ(flops(false) - flops(true), 2.0 * kTokens * 48 * kHidden);
}

TEST_P(Heads, EvaluationGivesTheSameSumsAndNoGradients) {
  const auto trained = run(d_tap, true);
  EXPECT_EQ(trained[3], kTokens - 1);
  zero_gradients(rig, visit());
  const std::vector<float> before = values(d_tap);
  EXPECT_EQ(run(d_tap, false), trained);
  EXPECT_EQ(values(d_tap), before);
  for (const auto& gradient : gradients(visit())) EXPECT_EQ(gradient, std::vector<float>(gradient.size(), 0.0f));
}

TEST_P(Heads, AssignsTheTapGradient) {
  run(d_tap, true);
  const std::vector<float> first = values(d_tap);
  for (std::int64_t i = 0; i < d_tap.elements(); ++i) d_tap.as<float>()[i] = NAN;
  run(d_tap, true);
  EXPECT_EQ(values(d_tap), first);
}

// A sequence alone is cut into other chunks than two together: 3 and 3 tokens instead of 6.
TEST_P(Heads, ChunksChangeNothingButRounding) {
  ASSERT_NE(OutputMatrix::chunk(kTokens, kVocabulary), OutputMatrix::chunk(kSequence, kVocabulary));
  zero_gradients(rig, visit());
  const auto sums = run(d_tap, true);
  const auto together = gradients(visit());
  const std::vector<float> tap = values(d_tap);
  zero_gradients(rig, visit());
  const auto first = run(d_tap, true, 0, kSequence), second = run(d_tap, true, kSequence, kTokens);
  const auto apart = gradients(visit());
  for (std::size_t i = 0; i < kLossSums; ++i) EXPECT_NEAR(first[i] + second[i], sums[i], 1e-6 * std::abs(sums[i])) << i;
  // Sums of at most 12 tokens' terms of about 1 / 16, behind products over at most 37 elements: 2^-24 * 64 * 1 / 16 each.
  for (std::size_t p = 0; p < apart.size(); ++p) {
    for (std::size_t i = 0; i < apart[p].size(); ++i) ASSERT_NEAR(apart[p][i], together[p][i], 2e-6) << p << " " << i;
  }
  for (std::size_t i = 0; i < tap.size(); ++i) ASSERT_NEAR(values(d_tap)[i], tap[i], 2e-6) << i;
}

TEST_P(Heads, BeatsOnceAChunkAtLeast) {
  int beats = 0;
  rig.ctx.tick = [&] { ++beats; };
  run(d_tap, true);
  EXPECT_GE(beats, 2);
}

TEST(OutputMatrix, ChunksNeverHoldAllTokens) {
  for (const std::int64_t tokens : {1, 2, 3, 5, 31, 32, 33, 64, 100, 127, 128, 129, 512, 1000, 1024, 4096, 65'536}) {
    for (const std::int64_t vocabulary : {2, 257, 1024, 8192, 32'000, 50'257, 128'256, 4'000'000}) {
      const std::int64_t chunk = OutputMatrix::chunk(tokens, vocabulary), chunks = (tokens + chunk - 1) / chunk;
      SCOPED_TRACE(std::to_string(tokens) + " tokens, vocabulary " + std::to_string(vocabulary) + ": chunks of " + std::to_string(chunk));
      EXPECT_GE(chunk, 1);
      EXPECT_LE(chunk, (tokens + 1) / 2);
      EXPECT_LE(chunk, std::max<std::int64_t>(64, (2 << 20) / vocabulary) + 15);
      EXPECT_TRUE(chunk % 16 == 0 || (chunk + 15) / 16 * 16 > (tokens + 1) / 2) << "rounded where there is room";
      EXPECT_LT(chunks * chunk - tokens, 16 * chunks) << "balanced: rounding alone leaves the last one short";
    }
  }
  EXPECT_EQ(OutputMatrix::chunk(1024, 8192), 256);
  EXPECT_EQ(OutputMatrix::chunk(1024, 128'256), 64);
  EXPECT_EQ(OutputMatrix::chunk(1000, 32'000), 64);  // 16 of them: 63 would do, 64 is a multiple of 16
  EXPECT_EQ(OutputMatrix::chunk(128, 257), 64);
}

// The rule of contracts.md: no buffer of tokens x vocabulary, in any head, nor in one and its teacher.
void check_no_head_holds_all_logits(Target target) {
  ModelConfig config = tiny_config();
  config.vocab_size = 8192;
  constexpr std::int64_t kMany = 4096;
  const bool taught = target != Target::labels;
  const std::int64_t chunk = OutputMatrix::chunk(kMany, config.vocab_size), heads = taught ? 2 : 1;
  ASSERT_LE(16 * chunk, kMany);
  // One chunk's logits, and what the head keeps a token: at these sizes 255 floats in a block, the most of all.
  const auto most = static_cast<std::size_t>(4 * (heads * chunk * config.vocab_size + 512 * kMany));
  Rig rig(Backing::none);
  const auto model = make_model(rig, config, every_exit_towards(target));
  for (Head& head : model->heads) {
    Arena memory(Backing::none, kUnlimited), scratch(Backing::none, kUnlimited);
    Meter meter;
    Context ctx{.scratch = &scratch, .meter = &meter};
    const Tensor x = memory.tensor({kMany, kHidden}, DType::f32), d_tap = memory.tensor({kMany, kHidden}, DType::f32);
    HeadIn in{.x = x, .labels = memory.tensor({kMany}, DType::i32), .scale = memory.tensor({1}, DType::f32)};
    if (taught) in.teacher = {memory.tensor(x.shape, DType::f32), &model->heads.back().output()};
    head.exit(ctx, d_tap, memory.tensor({kLossSums}, DType::f64), in, {.length = 8}, true);
    EXPECT_LE(scratch.peak(), most) << name_of(head.spec().head);
    EXPECT_GE(meter.total.flops, (taught ? 8.0 : 6.0) * kMany * kHidden * 8192) << name_of(head.spec().head);
  }
}

TEST(Plan, NoHeadHoldsAllLogits) {
  for (const Target target : {Target::labels, Target::distribution}) check_no_head_holds_all_logits(target);
}

}  // namespace
}  // namespace offramp::testing
