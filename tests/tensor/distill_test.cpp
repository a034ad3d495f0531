// The loss of an exit beside a teacher: against double precision, over slices of a vocabulary, and against what it must agree with.
#include <limits>

#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

struct Slice {
  std::int64_t n, columns, first;
};
enum class Towards { labels, argmax, distribution };
constexpr std::array kTowards{Towards::labels, Towards::argmax, Towards::distribution};

// Below, within and above the slice.
double some_token(Slice s, std::int64_t i) {
  return static_cast<double>((i * 3 + s.first + 1) % (s.columns + 2 * std::min<std::int64_t>(s.first, 2) + 1));
}
Fill some_labels(Slice s) {
  return [=](std::int64_t i) { return i % 5 == 4 ? -1.0 : some_token(s, i); };
}
// Other columns for some rows only, also where the label is masked.
Fill some_argmax(Slice s, std::int64_t every) {
  return [=](std::int64_t i) { return some_token(s, i % every ? i : i + 1); };
}
// Statistics as a vocabulary beyond the slice may have them: its maximum is the larger, its sum too.
Fill some_stats(double max) {
  return [=](std::int64_t i) { return i % 3 == 0 ? max : i % 3 == 1 ? 2.0 + static_cast<double>(i / 3 % 7) : 0.25; };
}

// Sums over up to 1000 columns are folded in fp32: 1000 / 32 additions a lane and a tree of 5, each rounding once, as do the
// probabilities before them a few times.
constexpr double kFolded = 48 * 0x1p-24 / 0x1p-53;

std::vector<Operand> operands_of(Slice s, Towards towards) {
  const Fill logits = [](std::int64_t i) { return normal({.seed = 3}, static_cast<std::uint64_t>(i)); };
  std::vector<Operand> all{of_type(updated("sums", {kLossSums}, kFolded), DType::f64),
                           output("dlogits", {s.n, s.columns}, 16),
                           input("logits", {s.n, s.columns}, logits),
                           input("stats", {s.n, 3}, some_stats(3.5)),
                           ids("argmax", {s.n}, some_argmax(s, 2)),
                           input("teacher_logits", {s.n, s.columns}),
                           input("teacher_stats", {s.n, 3}, some_stats(2.5)),
                           ids("teacher_argmax", {s.n}, some_argmax(s, 3)),
                           ids("labels", {s.n}, some_labels(s)),
                           input("scale", {1})};
  if (towards != Towards::distribution)
    all.push_back(ids("targets", {s.n}, towards == Towards::labels ? some_labels(s) : some_argmax(s, 3)));
  return all;
}

void reference(Values& v, Slice s, bool confidence) {
  const bool distribution = !v.count("targets"), whole = s.first == 0;
  for (Index i = 0, columns = static_cast<Index>(s.columns); i < static_cast<Index>(s.n); ++i) {
    const bool counts = v["labels"][i] >= 0;
    const double max = v["stats"][3 * i], sum = v["stats"][3 * i + 1], weight = confidence ? 1 / sum : 1;
    double accepted = 0, cross = 0;
    for (Index j = i * columns; j < (i + 1) * columns; ++j) {
      const double p = std::exp(v["logits"][j] - max) / sum;
      const double q = std::exp(v["teacher_logits"][j] - v["teacher_stats"][3 * i]) / v["teacher_stats"][3 * i + 1];
      const bool hot = !distribution && static_cast<double>(s.first) + static_cast<double>(j % columns) == v["targets"][i];
      v["dlogits"][j] = counts ? v["scale"][0] * weight * (p - (distribution ? q : hot ? 1 : 0)) : 0;
      accepted += std::min(p, q);
      cross -= q * (v["logits"][j] - max);
    }
    if (!counts) continue;
    const double top = std::log(sum) + max, hit = whole ? top - v["stats"][3 * i + 2] : 0;
    const double column = v["labels"][i] - static_cast<double>(s.first);
    const bool here = column >= 0 && column < static_cast<double>(columns);
    const double at_label = here ? v["logits"][i * columns + static_cast<Index>(column)] : 0;
    v["sums"][0] += distribution ? hit : (whole ? top : 0) - at_label;
    v["sums"][1] += weight * (distribution ? (whole ? std::log(sum) : 0) + cross : hit);
    v["sums"][4] += accepted;
    if (!whole) continue;
    v["sums"][2] += v["argmax"][i] == v["labels"][i] ? 1 : 0;
    v["sums"][3] += 1;
    v["sums"][5] += v["argmax"][i] == v["teacher_argmax"][i] ? 1 : 0;
  }
}

Case distill_case(Slice s, Towards towards, bool confidence) {
  return {.name = fmt::format("softmax_distill n={} columns={} first={} towards={} confidence={}", s.n, s.columns, s.first,
                              static_cast<int>(towards), confidence),
          .operands = operands_of(s, towards),
          .run =
              [=](Context& c, const Tensors& t) {
                softmax_distill(c, t["sums"], t["dlogits"], {t["logits"], t["stats"], t["argmax"]},
                                {t["teacher_logits"], t["teacher_stats"], t["teacher_argmax"]}, t["labels"], t["targets"], s.first,
                                {.scale = t["scale"], .confidence_weights = confidence});
              },
          .reference = [=](Values& v) { reference(v, s, confidence); },
          .aliases = {{"dlogits", "logits"}}};
}

TEST(SoftmaxDistill, WholeAndSliced) {
  for (const Towards towards : kTowards)
    for (const bool confidence : {false, true})
      for (const Slice& s : {Slice{1, 1, 0}, {7, 5, 0}, {9, 33, 40}, {11, 100, 3}, {64, 1000, 0}}) {
        check_case(distill_case(s, towards, confidence));
        Case rounded = in_bf16(distill_case(s, towards, confidence), {"dlogits"});
        rounded.aliases.clear();
        check_case(rounded);
      }
}

// ---- on statistics that are those of the logits

struct Pair {
  Arena arena{Backing::host, 1 << 22}, scratch{Backing::host, 1 << 20};
  Context context = context_over(scratch);
  std::int64_t n, columns;
  Scores exit = scores(), teacher = scores();
  Tensor labels = arena.tensor({n}, DType::i32), sums = arena.tensor({kLossSums}, DType::f64), scale = arena.tensor({1}, DType::f32);
  Tensor dlogits = arena.tensor({n, columns}, DType::f32);

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
  void run(Towards towards, bool confidence = false) {
    statistics(towards);
    fill_zero(context, sums);
    softmax_distill(context, sums, dlogits, exit, teacher, labels, targets(towards), 0, {.scale = scale, .confidence_weights = confidence});
  }
  double sum(int which) const { return sums.as<double>()[which]; }
  std::vector<float> gradient() const { return {dlogits.as<float>(), dlogits.as<float>() + n * columns}; }

  // A row's probabilities in double.
  std::vector<double> softmax(const Scores& of, std::int64_t row) const {
    std::vector<double> p;
    double all = 0;
    for (std::int64_t j = 0; j < columns; ++j)
      all += p.emplace_back(std::exp(static_cast<double>(of.logits.as<float>()[row * columns + j])));
    for (double& x : p) x /= all;
    return p;
  }
  double cross_entropy(std::int64_t row) const {
    const std::vector<double> p = softmax(exit, row), q = softmax(teacher, row);
    double loss = 0;
    for (Index j = 0; j < p.size(); ++j) loss -= q[j] * std::log(p[j]);
    return loss;
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
  Pair pair(13, 57);
  pair.run(Towards::distribution);
  double loss = 0;
  for (std::int64_t i = 0; i < pair.n; ++i) loss += i % 5 == 3 ? 0 : pair.cross_entropy(i);
  EXPECT_NEAR(pair.sum(1), loss, 16 * 0x1p-24 * loss);
  EXPECT_EQ(pair.sum(3), 11);
}

// scale times the summed loss, differentiated in double at float inputs.
TEST(SoftmaxDistill, GradientAgreesWithFiniteDifferences) {
  Pair pair(3, 7);
  pair.run(Towards::distribution);
  for (std::int64_t i = 0; i < 3 * 7; ++i) {
    float& x = pair.exit.logits.as<float>()[i];
    const float kept = x;
    x = kept + 0x1p-7f;
    const double up = pair.cross_entropy(i / 7), right = x;
    x = kept - 0x1p-7f;
    const double down = pair.cross_entropy(i / 7), left = x;
    x = kept;
    EXPECT_NEAR(pair.dlogits.as<float>()[i], 0.5 * (up - down) / (right - left), 0x1p-14);  // the quotient errs by step^2
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
  for (const Towards towards : kTowards) {
    pair.run(towards);
    EXPECT_NEAR(pair.sum(4), accepted, 16 * 0x1p-24 * accepted);
    EXPECT_EQ(pair.sum(5), agreed);
  }
}

TEST(SoftmaxDistill, AnExitLikeItsTeacherHasNothingToLearn) {
  Pair pair(13, 57);
  copy(pair.context, pair.exit.logits, pair.teacher.logits);
  pair.run(Towards::distribution);
  for (const float d : pair.gradient()) EXPECT_NEAR(d, 0, 0.5 * 0x1p-24);  // a product may be fused with the difference
  EXPECT_NEAR(pair.sum(4), pair.sum(3), 16 * 0x1p-24 * pair.sum(3));
  EXPECT_EQ(pair.sum(5), pair.sum(3));
}

// Each range with the statistics of the whole vocabulary gives its columns of the gradient, and its part of the sums.
TEST(SoftmaxDistill, RangesAddUpToTheWhole) {
  for (const Towards towards : kTowards)
    for (const bool confidence : {false, true}) {
      Pair pair(13, 57);
      pair.run(towards, confidence);
      const std::vector<double> whole(pair.sums.as<double>(), pair.sums.as<double>() + kLossSums);
      fill_zero(pair.context, pair.sums);
      for (std::int64_t first = 0, width = 16; first < 57; first += width) {
        width = std::min<std::int64_t>(width, 57 - first);
        const Pair part(13, width);
        Context context = pair.context;
        copy(context, part.exit.logits, pair.exit.logits.narrow(1, first, width));
        copy(context, part.teacher.logits, pair.teacher.logits.narrow(1, first, width));
        softmax_distill(context, pair.sums, part.dlogits, {part.exit.logits, pair.exit.stats, pair.exit.argmax},
                        {part.teacher.logits, pair.teacher.stats, pair.teacher.argmax}, pair.labels, pair.targets(towards), first,
                        {.scale = pair.scale, .confidence_weights = confidence});
        for (std::int64_t i = 0; i < 13; ++i)
          for (std::int64_t j = 0; j < width; ++j)
            ASSERT_EQ(part.dlogits.as<float>()[i * width + j], pair.dlogits.as<float>()[i * 57 + first + j]) << i << " " << first + j;
      }
      for (int k = 0; k < kLossSums; ++k)
        EXPECT_NEAR(pair.sum(k), whole[static_cast<Index>(k)], 16 * 0x1p-24 * whole[static_cast<Index>(k)]) << k;
    }
}

TEST(SoftmaxDistill, ShowsEveryNaN) {
  for (const std::int64_t at : {0, 1, 31, 32, 56}) {
    for (const Towards towards : kTowards) {
      Pair pair(2, 57);
      pair.exit.logits.as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
      pair.run(towards);
      EXPECT_TRUE(std::isnan(pair.sum(0))) << at;
      for (std::int64_t j = 0; j < 57; ++j) EXPECT_TRUE(std::isnan(pair.dlogits.as<float>()[j])) << at;
      EXPECT_FALSE(std::isnan(pair.dlogits.as<float>()[57])) << "the other row";
    }
    Pair pair(2, 57);
    pair.teacher.logits.as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
    pair.run(Towards::labels);
    EXPECT_TRUE(std::isnan(pair.sum(4)) && std::isfinite(pair.sum(0))) << "of the teacher, whom the labels do not need";
    pair.run(Towards::distribution);
    EXPECT_TRUE(std::isnan(pair.sum(4)) && std::isnan(pair.sum(1)) && std::isnan(pair.dlogits.as<float>()[0]));
  }
}

}  // namespace
}  // namespace offramp::testing
