// Exits beside a teacher, the model's own final head: what it changes, and what not. (Gradients: gradient_test.cpp; tensor groups and
// bf16: agreement_test.cpp.)
#include "rig.h"
#include "tensor/check.h"
#include "tests/close.h"

namespace offramp::testing {
namespace {

constexpr std::int64_t kHidden = 16, kVocabulary = 37;

struct Outcome {
  std::vector<double> sums;
  std::vector<float> d_tap;
  std::vector<std::vector<float>> gradients;
};

class TaughtHeads : public ::testing::TestWithParam<int> {
 protected:
  Outcome run(Target target, const Teacher& from, Tensor counted, bool train = true, float temperature = 1, float label_weight = 0) {
    const auto model = make_model(rig, tiny_config(), every_exit_towards(target));
    Head& head = model->heads[static_cast<std::size_t>(GetParam())];
    const auto visit = [&](const Visitor& visitor) { head.visit(visitor); };
    const Tensor d_tap = rig.like(x), sums = rig.tensor({kLossSums}, DType::f64);
    zero_gradients(rig, visit);
    fill_zero(rig.ctx, sums), fill_zero(rig.ctx, d_tap);
    const HeadIn in{.x = x, .labels = counted, .scale = scale, .teacher = from, .temperature = temperature, .label_weight = label_weight};
    head.exit(rig.ctx, d_tap, sums, in, {.length = kSequence}, train);
    return {{sums.as<double>(), sums.as<double>() + kLossSums}, values(d_tap), gradients(visit)};
  }
  Outcome run(Target target, bool train = true) { return run(target, teacher, labels, train); }
  void SetUp() override { *scale.as<float>() = 1.0f / 16; }

  Rig rig{Backing::host};
  std::shared_ptr<Model> frozen = make_model(rig, tiny_config(), {});
  Tensor x = rig.numbers("x", {kTokens, kHidden}), scale = rig.tensor({1});
  Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i == 4 ? -1 : i * 11 % kVocabulary; });
  Teacher teacher{rig.numbers("teacher", x.shape), &frozen->heads.back().output()};
};
INSTANTIATE_TEST_SUITE_P(All, TaughtHeads, ::testing::Range(0, 5));

constexpr std::array kTargets{Target::labels, Target::argmax, Target::distribution};

TEST_P(TaughtHeads, ATeacherOfLabelsOnlyMeasures) {
  const Outcome alone = run(Target::labels, {}, labels), beside = run(Target::labels);
  EXPECT_EQ(beside.d_tap, alone.d_tap);
  EXPECT_EQ(beside.gradients, alone.gradients);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(beside.sums[i], alone.sums[i]) << i;
  EXPECT_EQ(alone.sums[4], 0);
  EXPECT_EQ(alone.sums[5], 0);
  EXPECT_TRUE(beside.sums[4] > 0 && beside.sums[4] < beside.sums[3]) << beside.sums[4];
}

TEST_P(TaughtHeads, TheArgmaxIsLearnedAsLabelsAre) {
  const Tensor logits = rig.tensor({kTokens, kVocabulary});
  teacher.output->logits(rig.ctx, logits, teacher.x);
  const auto argmax = [&](std::int64_t i) {
    const float* row = logits.as<float>() + i * kVocabulary;
    return std::max_element(row, row + kVocabulary) - row;
  };
  const Tensor said = rig.integers({kTokens}, [&](std::int64_t i) { return i == 4 ? -1 : argmax(i); });
  const Outcome taught = run(Target::argmax), told = run(Target::labels, {}, said);
  EXPECT_EQ(taught.d_tap, told.d_tap);
  EXPECT_EQ(taught.gradients, told.gradients);
  for (const std::size_t i : {1u, 3u}) EXPECT_EQ(taught.sums[i], told.sums[i]) << i;
  EXPECT_EQ(taught.sums[5], told.sums[2]);  // who hits what the teacher says agrees with it
  EXPECT_EQ(taught.sums[2], run(Target::labels).sums[2]);
}

TEST_P(TaughtHeads, MeasuresDoNotDependOnTheTarget) {
  const Outcome labels_learned = run(Target::labels);
  for (const Target target : {Target::argmax, Target::distribution}) {
    const Outcome other = run(target);
    EXPECT_NE(other.d_tap, labels_learned.d_tap);
    EXPECT_NE(other.sums[1], labels_learned.sums[1]);
    EXPECT_NEAR(other.sums[0], labels_learned.sums[0], 0x1p-20 * labels_learned.sums[0]);
    for (const std::size_t i : {2u, 3u, 4u, 5u}) EXPECT_EQ(other.sums[i], labels_learned.sums[i]) << i;
  }
}

TEST_P(TaughtHeads, ATemperatureChangesWhatIsLearnedOfADistributionAlone) {
  for (const Target target : kTargets) {
    const Outcome at_one = run(target), softened = run(target, teacher, labels, true, 3);
    const bool softens = target == Target::distribution;
    EXPECT_EQ(softened.d_tap != at_one.d_tap, softens);
    EXPECT_EQ(softened.sums[1] != at_one.sums[1], softens);
    for (const std::size_t i : {0u, 2u, 3u, 4u, 5u}) EXPECT_EQ(softened.sums[i], at_one.sums[i]) << i;
    EXPECT_EQ(run(target, teacher, labels, false, 3).sums, softened.sums) << "in evaluation";
  }
}

// Gradients of both add up, and the loss.
TEST_P(TaughtHeads, LabelsMayBeLearnedBesideADistribution) {
  const Outcome told = run(Target::labels);
  for (const float temperature : {1.0f, 3.0f}) {
    const Outcome taught = run(Target::distribution, teacher, labels, true, temperature);
    const Outcome both = run(Target::distribution, teacher, labels, true, temperature, 0.75f);
    std::vector<float> expected = taught.d_tap;
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += 0.75f * told.d_tap[i];
    expect_close({{"d_tap", both.d_tap}}, {{"d_tap", expected}}, 1e-5, "");
    const double loss = taught.sums[1] + 0.75 * told.sums[1];
    EXPECT_NEAR(both.sums[1], loss, 1e-6 * loss);
    for (const std::size_t i : {0u, 2u, 3u, 4u, 5u}) EXPECT_EQ(both.sums[i], taught.sums[i]) << i;
  }
}

TEST_P(TaughtHeads, EvaluationGivesTheSameSumsAndNoGradients) {
  for (const Target target : kTargets) {
    const Outcome trained = run(target), evaluated = run(target, false);
    EXPECT_EQ(evaluated.sums, trained.sums);
    EXPECT_EQ(evaluated.d_tap, std::vector<float>(evaluated.d_tap.size()));
    for (const auto& gradient : evaluated.gradients) EXPECT_EQ(gradient, std::vector<float>(gradient.size()));
  }
}

TEST_P(TaughtHeads, TheTeacherLearnsNothing) {
  const auto visit = [&](const Visitor& visitor) { frozen->heads.back().visit(visitor); };
  zero_gradients(rig, visit);
  for (const Target target : kTargets) run(target);
  for (const auto& gradient : gradients(visit)) EXPECT_EQ(gradient, std::vector<float>(gradient.size()));
  visit([](Parameter& p) { p.grad = {}; });  // a frozen copy has no gradient at all
  EXPECT_GT(run(Target::distribution).sums[0], 0);
}

TEST_P(TaughtHeads, WithoutTheirTeacherTheyRefuse) {
  EXPECT_NO_THROW(run(Target::labels, {}, labels));
  EXPECT_THROW(run(Target::argmax, {}, labels), Error);
  EXPECT_THROW(run(Target::distribution, {}, labels), Error);
  const auto part = make_model(rig, tiny_config(), {}, {.heads = {0, 2}});
  EXPECT_THROW(run(Target::distribution, {teacher.x, &part->heads.back().output()}, labels), Error) << "half the vocabulary";
}

TEST_P(TaughtHeads, SplitOverThePipelineTheyRefuse) {
  const Tensor top = rig.like(x);
  for (const Target target : kTargets) {
    const auto model = make_model(rig, tiny_config(), every_exit_towards(target), {.heads = {0, 2}});
    Slot slot(rig.slab, Keep::everything, {.length = kSequence});
    const auto tap = [&] { model->heads[static_cast<std::size_t>(GetParam())].tap(rig.ctx, top, x, slot); };
    if (target == Target::labels)
      EXPECT_NO_THROW(tap());
    else
      EXPECT_THROW(tap(), Error);
  }
}

}  // namespace
}  // namespace offramp::testing
