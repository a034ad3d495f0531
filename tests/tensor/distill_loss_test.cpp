// The loss of an exit beside a teacher, on statistics that are those of the logits: what it must agree with.
#include <limits>

#include "distill.h"
#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

struct Pair {
  Arena arena{Backing::host, 1 << 22}, scratch{Backing::host, 1 << 20};
  Context context = context_over(scratch);
  std::int64_t n, columns;
  Scores exit = scores(), teacher = scores();
  Tensor labels = arena.tensor({n}, DType::i32), sums = arena.tensor({kLossSums}, DType::f64), scale = arena.tensor({1}, DType::f32);
  Tensor dlogits = arena.tensor({n, columns}, DType::f32), softened = arena.tensor({n, 2}, DType::f32);

  Pair(std::int64_t rows, std::int64_t vocabulary) : n(rows), columns(vocabulary) {
    for (std::int64_t i = 0; i < n * columns; ++i) {
      const float common = normal({.seed = 4}, static_cast<std::uint64_t>(i));  // so that they often agree
      exit.logits.as<float>()[i] = 2 * common + normal({.seed = 5}, static_cast<std::uint64_t>(i));
      teacher.logits.as<float>()[i] = 2 * common + normal({.seed = 6}, static_cast<std::uint64_t>(i));
    }
    for (std::int64_t i = 0; i < n; ++i) labels.as<std::int32_t>()[i] = static_cast<std::int32_t>(i % 5 == 3 ? -1 : i * 7 % columns);
    scale.as<float>()[0] = 0.5f;
  }
  Scores scores() { return {arena.tensor({n, columns}, DType::f32), arena.tensor({n, 3}, DType::f32), arena.tensor({n}, DType::i32)}; }
  Tensor targets(Towards towards) const {
    return towards == Towards::labels ? labels : towards == Towards::argmax ? teacher.argmax : Tensor{};
  }
  void statistics(Towards towards) {
    softmax_stats(context, teacher.stats, teacher.argmax, teacher.logits, labels);
    softmax_stats(context, exit.stats, exit.argmax, exit.logits, towards == Towards::argmax ? teacher.argmax : labels);
  }
  void run(const Wanted& wanted) {
    statistics(wanted.towards);
    fill_zero(context, sums);
    if (wanted.temperature != 1) softmax_soften(context, softened, exit, teacher, wanted.temperature);
    softmax_distill(context, sums, dlogits, exit, teacher, labels, targets(wanted.towards), 0, options(wanted), softened);
  }
  void run(Towards towards, bool confidence = false) { run({towards, confidence}); }
  LossOptions options(const Wanted& wanted) const { return {scale, wanted.confidence, wanted.temperature, wanted.labels}; }
  double sum(int which) const { return sums.as<double>()[which]; }
  std::vector<float> gradient() const { return {dlogits.as<float>(), dlogits.as<float>() + n * columns}; }

  // A row's probabilities in double.
  std::vector<double> softmax(const Scores& of, std::int64_t row, double temperature = 1) const {
    std::vector<double> p;
    double all = 0;
    for (std::int64_t j = 0; j < columns; ++j)
      all += p.emplace_back(std::exp(static_cast<double>(of.logits.as<float>()[row * columns + j]) / temperature));
    for (double& x : p) x /= all;
    return p;
  }
  double cross_entropy(std::int64_t row, double temperature = 1) const {
    const std::vector<double> p = softmax(exit, row, temperature), q = softmax(teacher, row, temperature);
    double loss = 0;
    for (Index j = 0; j < p.size(); ++j) loss -= q[j] * std::log(p[j]);
    return temperature * temperature * loss;
  }
};

TEST(SoftmaxDistill, TargetsGiveTheBitsOfSoftmaxLoss) {
  for (const Towards towards : {Towards::labels, Towards::argmax})
    for (const bool confidence : {false, true}) {
      Pair pair(13, 57), plain(13, 57);
      pair.run(towards, confidence);
      plain.statistics(towards);
      for (std::int64_t i = 0; i < plain.n; ++i)
        if (towards == Towards::argmax && plain.labels.as<std::int32_t>()[i] >= 0)
          plain.labels.as<std::int32_t>()[i] = plain.teacher.argmax.as<std::int32_t>()[i];
      fill_zero(plain.context, plain.sums);
      softmax_loss(plain.context, plain.sums, plain.dlogits, plain.exit.logits, plain.exit.stats, plain.exit.argmax, plain.labels, 0,
                   {.scale = plain.scale, .confidence_weights = confidence});
      EXPECT_EQ(pair.gradient(), plain.gradient());
      for (const int which : {1, 3}) EXPECT_EQ(pair.sum(which), plain.sum(which)) << which;
      if (towards == Towards::labels) {
        EXPECT_EQ(pair.sum(0), plain.sum(0));
      }
      // Right is who hits the label; where the target is the teacher's argmax, who hits that agrees.
      EXPECT_EQ(pair.sum(towards == Towards::labels ? 2 : 5), plain.sum(2));
      EXPECT_GT(plain.sum(2), 0);
    }
}

TEST(SoftmaxDistill, LearnsTheCrossEntropyOfTheTeacher) {
  for (const float temperature : {1.0f, 0.5f, 3.0f}) {
    Pair pair(13, 57);
    pair.run({Towards::distribution, false, temperature});
    double loss = 0;
    for (std::int64_t i = 0; i < pair.n; ++i) loss += i % 5 == 3 ? 0 : pair.cross_entropy(i, temperature);
    EXPECT_NEAR(pair.sum(1), loss, 16 * 0x1p-24 * loss);
    EXPECT_EQ(pair.sum(3), 11);
  }
}

// scale times the summed loss, differentiated in double at float inputs.
TEST(SoftmaxDistill, GradientAgreesWithFiniteDifferences) {
  for (const float temperature : {1.0f, 0.5f, 3.0f}) {
    Pair pair(3, 7);
    pair.run({Towards::distribution, false, temperature});
    for (std::int64_t i = 0; i < 3 * 7; ++i) {
      float& x = pair.exit.logits.as<float>()[i];
      const float kept = x;
      x = kept + 0x1p-7f;
      const double up = pair.cross_entropy(i / 7, temperature), right = x;
      x = kept - 0x1p-7f;
      const double down = pair.cross_entropy(i / 7, temperature), left = x;
      x = kept;
      EXPECT_NEAR(pair.dlogits.as<float>()[i], 0.5 * (up - down) / (right - left), 0x1p-14);  // the quotient errs by step^2
    }
  }
}

// The higher, the nearer (x - y) / columns for logits x and y of mean 0: its size does not go with T.
TEST(SoftmaxDistill, GradientsOfHighTemperaturesAreDifferencesOfLogits) {
  Pair pair(1, 7);
  const auto centre = [&](const Scores& scores) {
    double mean = 0;
    for (int j = 0; j < 7; ++j) mean += scores.logits.as<float>()[j] / 7.0;
    for (int j = 0; j < 7; ++j) scores.logits.as<float>()[j] -= static_cast<float>(mean);
  };
  centre(pair.exit), centre(pair.teacher);
  constexpr double kHigh = 1024;
  pair.run({Towards::distribution, false, static_cast<float>(kHigh)});
  for (int j = 0; j < 7; ++j) {
    const double difference = pair.exit.logits.as<float>()[j] - pair.teacher.logits.as<float>()[j];
    EXPECT_NEAR(pair.gradient()[static_cast<Index>(j)], 0.5 * difference / 7, 4 / kHigh)
        << j;  // next: squares of logits below 6, / (4 T columns)
  }
}

TEST(SoftmaxDistill, MeasuresAreThoseOfTheTwoDistributions) {
  Pair pair(40, 57);
  double accepted = 0, agreed = 0;
  for (std::int64_t i = 0; i < pair.n; ++i) {
    if (i % 5 == 3) continue;
    const std::vector<double> p = pair.softmax(pair.exit, i), q = pair.softmax(pair.teacher, i);
    for (Index j = 0; j < p.size(); ++j) accepted += std::min(p[j], q[j]);
    agreed += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin() ? 1 : 0;
  }
  ASSERT_TRUE(agreed > 4 && agreed < 28) << agreed;
  for (const Wanted& wanted : everything_wanted()) {
    pair.run(wanted);
    EXPECT_NEAR(pair.sum(4), accepted, 16 * 0x1p-24 * accepted);
    EXPECT_EQ(pair.sum(5), agreed);
  }
}

TEST(SoftmaxDistill, AnExitLikeItsTeacherHasNothingToLearn) {
  for (const float temperature : {1.0f, 0.5f, 3.0f}) {
    Pair pair(13, 57);
    copy(pair.context, pair.exit.logits, pair.teacher.logits);
    pair.run({Towards::distribution, false, temperature});
    const double product = 0.5 * temperature * 0x1p-24;  // which may be fused with the difference
    for (const float d : pair.gradient()) EXPECT_NEAR(d, 0, product);
    EXPECT_NEAR(pair.sum(4), pair.sum(3), 16 * 0x1p-24 * pair.sum(3));
    EXPECT_EQ(pair.sum(5), pair.sum(3));
  }
}

// Each range with the statistics of the whole vocabulary gives its columns of the gradient, and its part of the sums.
TEST(SoftmaxDistill, RangesAddUpToTheWhole) {
  for (const Wanted& wanted : everything_wanted()) {
    Pair pair(13, 57);
    pair.run(wanted);
    const std::vector<double> whole(pair.sums.as<double>(), pair.sums.as<double>() + kLossSums);
    std::vector<double> softened(2 * 13);
    fill_zero(pair.context, pair.sums);
    for (std::int64_t first = 0, width = 16; first < 57; first += width) {
      width = std::min<std::int64_t>(width, 57 - first);
      const Pair part(13, width);
      Context context = pair.context;
      copy(context, part.exit.logits, pair.exit.logits.narrow(1, first, width));
      copy(context, part.teacher.logits, pair.teacher.logits.narrow(1, first, width));
      const Scores exit{part.exit.logits, pair.exit.stats, pair.exit.argmax};
      const Scores teacher{part.teacher.logits, pair.teacher.stats, pair.teacher.argmax};
      softmax_soften(context, part.softened, exit, teacher, wanted.temperature);
      for (Index i = 0; i < softened.size(); ++i) softened[i] += static_cast<double>(part.softened.as<float>()[i]);
      softmax_distill(context, pair.sums, part.dlogits, exit, teacher, pair.labels, pair.targets(wanted.towards), first,
                      pair.options(wanted), pair.softened);
      for (std::int64_t i = 0; i < 13; ++i)
        for (std::int64_t j = 0; j < width; ++j)
          ASSERT_EQ(part.dlogits.as<float>()[i * width + j], pair.dlogits.as<float>()[i * 57 + first + j]) << i << " " << first + j;
    }
    for (int k = 0; k < kLossSums; ++k)
      EXPECT_NEAR(pair.sum(k), whole[static_cast<Index>(k)], 16 * 0x1p-24 * whole[static_cast<Index>(k)]) << k;
    for (Index i = 0; i < softened.size() && wanted.temperature != 1; ++i)
      EXPECT_NEAR(pair.softened.as<float>()[i], softened[i], 16 * 0x1p-24 * softened[i]);
  }
}

TEST(SoftmaxDistill, ShowsEveryNaN) {
  for (const std::int64_t at : {0, 1, 31, 32, 56}) {
    for (const Wanted& wanted : everything_wanted()) {
      Pair pair(2, 57);
      pair.exit.logits.as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
      pair.run(wanted);
      EXPECT_TRUE(std::isnan(pair.sum(0))) << at;
      for (std::int64_t j = 0; j < 57; ++j) EXPECT_TRUE(std::isnan(pair.dlogits.as<float>()[j])) << at;
      EXPECT_FALSE(std::isnan(pair.dlogits.as<float>()[57])) << "the other row";
    }
    Pair pair(2, 57);
    pair.teacher.logits.as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
    pair.run(Towards::labels);
    EXPECT_TRUE(std::isnan(pair.sum(4)) && std::isfinite(pair.sum(0))) << "of the teacher, whom the labels do not need";
    for (const float temperature : {1.0f, 3.0f}) {
      pair.run({Towards::distribution, false, temperature});
      EXPECT_TRUE(std::isnan(pair.sum(4)) && std::isnan(pair.sum(1)) && std::isnan(pair.dlogits.as<float>()[0]));
    }
  }
}

}  // namespace
}  // namespace offramp::testing
