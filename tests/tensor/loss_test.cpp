// Softmax statistics and the loss made of them, over a whole vocabulary and over slices of one.
#include <bit>
#include <limits>

#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Slice {
  std::int64_t n, columns, first;
};

// Labels below, within and above the slice; every fifth row is masked.
Fill some_labels(Slice s) {
  return [=](std::int64_t i) {
    return i % 5 == 4 ? -1.0 : static_cast<double>((i * 3 + s.first + 1) % (s.columns + 2 * std::min<std::int64_t>(s.first, 2) + 1));
  };
}
// Coarse values, so that maxima tie.
Fill tying_logits() {
  return [](std::int64_t i) { return std::round(normal({.seed = 3}, static_cast<std::uint64_t>(i)) * 2) / 2; };
}

Case softmax_stats_case(Slice s) {
  return {.name = fmt::format("softmax_stats n={} columns={} first={}", s.n, s.columns, s.first),
          .operands = {output("stats", {s.n, 3}), of_type(output("argmax", {s.n}), DType::i32),
                       input("logits", {s.n, s.columns}, tying_logits()), ids("labels", {s.n}, some_labels(s))},
          .run = [=](Context& c, const Tensors& t) { softmax_stats(c, t["stats"], t["argmax"], t["logits"], t["labels"], s.first); },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n; ++i) {
                  const auto row = v["logits"].begin() + i * s.columns;
                  const auto best = std::max_element(row, row + s.columns);  // the first of equals
                  double sum = 0;
                  for (std::int64_t j = 0; j < s.columns; ++j) sum += std::exp(row[j] - *best);
                  const auto label = static_cast<std::int64_t>(v["labels"][static_cast<Index>(i)]);
                  const bool here = label >= 0 && label >= s.first && label < s.first + s.columns;
                  v["argmax"][static_cast<Index>(i)] = static_cast<double>(s.first + (best - row));
                  v["stats"][static_cast<Index>(3 * i)] = *best;
                  v["stats"][static_cast<Index>(3 * i + 1)] = sum;
                  v["stats"][static_cast<Index>(3 * i + 2)] = here ? row[label - s.first] : -kInfinity;
                }
              }};
}

TEST(SoftmaxStats, WholeAndSliced) {
  for (const Slice& s : {Slice{1, 1, 0}, {7, 5, 0}, {9, 33, 40}, {11, 100, 3}, {64, 1000, 0}}) check_case(softmax_stats_case(s));
}

// ---- the merge of a vocabulary in ranges

Case softmax_merge_case(std::int64_t ranges, std::int64_t n) {
  const auto finite = [=](std::int64_t range, std::int64_t i) { return (range + i) % ranges == 0; };  // where the label is
  const Fill all = [=](std::int64_t at) {
    const std::int64_t range = at / (4 * n), i = at % (4 * n);
    if (i >= 3 * n) return static_cast<double>(std::bit_cast<float>(static_cast<std::int32_t>(1'000'000 * (range + 1) + i)));
    if (i % 3 == 0) return tying_logits()(at);
    if (i % 3 == 1) return 1.0 + static_cast<double>(at % 5);
    return finite(range, i / 3) ? 0.25 * static_cast<double>(at % 9) : -kInfinity;
  };
  return {.name = fmt::format("softmax_merge ranges={} n={}", ranges, n),
          .operands = {output("stats", {n, 3}), of_type(output("argmax", {n}), DType::i32), input("all", {ranges, 4 * n}, all)},
          .run = [](Context& c, const Tensors& t) { softmax_merge(c, t["stats"], t["argmax"], t["all"]); },
          .reference =
              [=](Values& v) {
                const auto of = [&](std::int64_t range, std::int64_t at) { return v["all"][static_cast<Index>(range * 4 * n + at)]; };
                for (std::int64_t i = 0; i < n; ++i) {
                  std::int64_t winner = 0;
                  double sum = 0, label = -kInfinity;
                  for (std::int64_t r = 0; r < ranges; ++r) {
                    if (of(r, 3 * i) > of(winner, 3 * i)) winner = r;
                    if (finite(r, i)) label = of(r, 3 * i + 2);
                  }
                  for (std::int64_t r = 0; r < ranges; ++r) sum += of(r, 3 * i + 1) * std::exp(of(r, 3 * i) - of(winner, 3 * i));
                  v["stats"][static_cast<Index>(3 * i)] = of(winner, 3 * i);
                  v["stats"][static_cast<Index>(3 * i + 1)] = sum;
                  v["stats"][static_cast<Index>(3 * i + 2)] = label;
                  v["argmax"][static_cast<Index>(i)] = 1'000'000.0 * static_cast<double>(winner + 1) + static_cast<double>(3 * n + i);
                }
              }};
}

TEST(SoftmaxMerge, Registry) {
  for (const auto& [ranges, n] : {std::pair{1, 1}, {2, 7}, {3, 33}, {4, 100}}) check_case(softmax_merge_case(ranges, n));
}

// Logits that ranks hold in ranges of unequal widths: the merged statistics are those of the whole.
class Split {
 public:
  Split(std::int64_t n, std::vector<std::int64_t> widths) : n_(n), widths_(std::move(widths)) {
    for (const std::int64_t w : widths_) columns_ += w;
    logits = arena_.tensor({n_, columns_}, DType::f32);
    labels = arena_.tensor({n_}, DType::i32);
    all_ = arena_.tensor({static_cast<std::int64_t>(widths_.size()), 4 * n_}, DType::f32);
    for (std::int64_t i = 0; i < n_ * columns_; ++i) logits.as<float>()[i] = static_cast<float>(tying_logits()(i));
    for (std::int64_t i = 0; i < n_; ++i) labels.as<std::int32_t>()[i] = static_cast<std::int32_t>(some_labels({n_, columns_, 0})(i));
  }
  void expect_same_as_whole() {
    Arena memory(Backing::host, 1 << 16);
    const Tensor stats = memory.tensor({n_, 3}, DType::f32), argmax = memory.tensor({n_}, DType::i32);
    const Tensor merged = memory.tensor({n_, 3}, DType::f32), merged_argmax = memory.tensor({n_}, DType::i32);
    softmax_stats(context_, stats, argmax, logits, labels);
    std::int64_t first = 0;
    for (std::size_t r = 0; r < widths_.size(); first += widths_[r++]) range_stats(static_cast<std::int64_t>(r), first, widths_[r]);
    softmax_merge(context_, merged, merged_argmax, all_);
    const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    for (std::int64_t i = 0; i < n_; ++i) {
      const float *want = stats.as<float>() + 3 * i, *got = merged.as<float>() + 3 * i;
      EXPECT_EQ(merged_argmax.as<std::int32_t>()[i], argmax.as<std::int32_t>()[i]) << i;
      EXPECT_TRUE(same(got[0], want[0]) && same(got[2], want[2])) << i;
      EXPECT_TRUE(same(got[1], want[1]) || std::abs(got[1] - want[1]) <= static_cast<float>(columns_) * 0x1p-24f * want[1]) << i;
    }
  }

  Tensor logits, labels;  // [n, V], [n]

 private:
  void range_stats(std::int64_t r, std::int64_t first, std::int64_t width) {
    Arena memory(Backing::host, 1 << 20);
    const Tensor part = memory.tensor({n_, width}, DType::f32), row = all_.narrow(0, r, 1);
    copy(context_, part, logits.narrow(1, first, width));
    const Tensor argmax(row.narrow(1, 3 * n_, n_).data, {n_}, DType::i32);
    softmax_stats(context_, row.narrow(1, 0, 3 * n_).reshape({n_, 3}), argmax, part, labels, first);
  }

  Arena arena_{Backing::host, 1 << 22}, scratch_{Backing::host, 1 << 16};
  Context context_ = context_over(scratch_);
  std::int64_t n_, columns_ = 0;
  std::vector<std::int64_t> widths_;
  Tensor all_;
};

const std::vector<std::int64_t> kWidths[] = {{100}, {1, 99}, {40, 7, 53}, {33, 1, 64, 2}};

TEST(SoftmaxMerge, IsTheWholeVocabulary) {
  for (const auto& widths : kWidths) Split(64, widths).expect_same_as_whole();
}

TEST(SoftmaxMerge, OfEqualMaximaTheFirstWins) {
  for (const auto& widths : kWidths) {
    Split split(3, widths);
    std::fill_n(split.logits.as<float>(), 300, 1.5f);
    split.expect_same_as_whole();
  }
}

// Where a range has no number at all, or only one, or a NaN beside numbers.
TEST(SoftmaxMerge, RangesOfInfinitiesAndNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& widths : kWidths) {
    for (const float bad : {nan, -std::numeric_limits<float>::infinity()}) {
      Split split(4, widths);
      float* x = split.logits.as<float>();
      std::fill_n(x, 40, bad), std::fill_n(x + 140, 60, bad), std::fill_n(x + 200, 100, bad), x[350] = bad;
      split.expect_same_as_whole();
    }
  }
}

// ---- the loss

// The statistics that rows of logits have, made by the reference: the loss's inputs, whatever a slice or a merge produced.
Fill stat(Slice s, int which) {
  return [=](std::int64_t i) {
    return which == 0 ? 1.5 : which == 1 ? 2.0 + static_cast<double>(i % 7) : 0.25 + 0.01 * static_cast<double>(i % s.columns);
  };
}

Case softmax_loss_case(Slice s, bool confidence) {
  const Fill stats = [=](std::int64_t i) { return stat(s, static_cast<int>(i % 3))(i / 3); };
  const Fill argmax = [=](std::int64_t i) { return std::max(0.0, some_labels(s)(i) + (i % 2 ? 0 : 1)); };
  return {.name = fmt::format("softmax_loss n={} columns={} first={} confidence={}", s.n, s.columns, s.first, confidence),
          .operands = {of_type(updated("sums", {kLossSums}, 128), DType::f64), output("dlogits", {s.n, s.columns}, 16),
                       input("logits", {s.n, s.columns}, tying_logits()), input("stats", {s.n, 3}, stats), ids("argmax", {s.n}, argmax),
                       ids("labels", {s.n}, some_labels(s)), input("scale", {1})},
          .run =
              [=](Context& c, const Tensors& t) {
                softmax_loss(c, t["sums"], t["dlogits"], t["logits"], t["stats"], t["argmax"], t["labels"], s.first,
                             {.scale = t["scale"], .confidence_weights = confidence});
              },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n; ++i) {
                  const Index row = static_cast<Index>(i), columns = static_cast<Index>(s.columns);
                  const auto label = static_cast<std::int64_t>(v["labels"][row]);
                  const double max = v["stats"][3 * row], sum = v["stats"][3 * row + 1], weight = confidence ? 1 / sum : 1;
                  const double loss = max + std::log(sum) - v["stats"][3 * row + 2];
                  for (Index j = 0; j < columns; ++j) {
                    const double onehot = static_cast<std::int64_t>(j) + s.first == label ? 1 : 0;
                    const double probability = std::exp(v["logits"][row * columns + j] - max) / sum;
                    v["dlogits"][row * columns + j] = label < 0 ? 0 : v["scale"][0] * weight * (probability - onehot);
                  }
                  if (label < 0) continue;
                  v["sums"][0] += loss;
                  v["sums"][1] += weight * loss;
                  v["sums"][2] += v["argmax"][row] == v["labels"][row] ? 1 : 0;
                  v["sums"][3] += 1;
                }
              },
          .aliases = {{"dlogits", "logits"}}};
}

TEST(SoftmaxLoss, WholeAndSliced) {
  for (const bool confidence : {false, true}) {
    for (const Slice& s : {Slice{1, 1, 0}, {7, 5, 0}, {9, 33, 40}, {11, 100, 3}, {64, 1000, 0}}) {
      check_case(softmax_loss_case(s, confidence));
      Case rounded = in_bf16(softmax_loss_case(s, confidence), {"dlogits"});
      rounded.aliases.clear();
      check_case(rounded);
    }
  }
}

// ---- the three steps together

struct Heads {
  Arena arena{Backing::host, 1 << 22}, scratch{Backing::host, 1 << 20};
  Context context = context_over(scratch);
  std::int64_t n, columns;
  Tensor logits, labels, stats, argmax, sums, dlogits, scale;

  Heads(std::int64_t rows, std::int64_t vocabulary) : n(rows), columns(vocabulary) {
    logits = arena.tensor({n, columns}, DType::f32);
    labels = arena.tensor({n}, DType::i32);
    stats = arena.tensor({n, 3}, DType::f32);
    argmax = arena.tensor({n}, DType::i32);
    sums = arena.tensor({kLossSums}, DType::f64);
    dlogits = arena.tensor({n, columns}, DType::f32);
    scale = arena.tensor({1}, DType::f32);
    scale.as<float>()[0] = 0.5f;
    for (std::int64_t i = 0; i < n * columns; ++i) logits.as<float>()[i] = 2 * normal({.seed = 4}, static_cast<std::uint64_t>(i));
    for (std::int64_t i = 0; i < n; ++i) labels.as<std::int32_t>()[i] = static_cast<std::int32_t>(i * 7 % columns);
  }
  void run(bool confidence = false) {
    softmax_stats(context, stats, argmax, logits, labels);
    softmax_loss(context, sums, dlogits, logits, stats, argmax, labels, 0, {.scale = scale, .confidence_weights = confidence});
  }
  double exact_loss(std::int64_t row) const {
    double sum = 0;
    const float* x = logits.as<float>() + row * columns;
    for (std::int64_t j = 0; j < columns; ++j) sum += std::exp(static_cast<double>(x[j]));
    return std::log(sum) - x[labels.as<std::int32_t>()[row]];
  }
};

TEST(SoftmaxLoss, IsTheCrossEntropy) {
  Heads heads(13, 57);
  heads.run();
  double loss = 0;
  for (std::int64_t i = 0; i < heads.n; ++i) loss += heads.exact_loss(i);
  EXPECT_NEAR(heads.sums.as<double>()[0], loss, 13 * 57 * 0x1p-24 * loss);
  EXPECT_EQ(heads.sums.as<double>()[0], heads.sums.as<double>()[1]);
  EXPECT_EQ(heads.sums.as<double>()[3], 13);
}

// scale times the summed loss, differentiated in double at float inputs.
TEST(SoftmaxLoss, GradientAgreesWithFiniteDifferences) {
  Heads heads(3, 7);
  heads.labels.as<std::int32_t>()[1] = -1;
  heads.run();
  for (std::int64_t i = 0; i < 3 * 7; ++i) {
    if (i / 7 == 1) {
      EXPECT_EQ(heads.dlogits.as<float>()[i], 0.0f);
      continue;
    }
    float& x = heads.logits.as<float>()[i];
    const float kept = x;
    x = kept + 0x1p-7f;
    const double up = heads.exact_loss(i / 7), right = x;
    x = kept - 0x1p-7f;
    const double down = heads.exact_loss(i / 7), left = x;
    x = kept;
    EXPECT_NEAR(heads.dlogits.as<float>()[i], 0.5 * (up - down) / (right - left), 0x1p-14);  // the quotient errs by step^2
  }
}

TEST(SoftmaxLoss, ConfidenceIsTheGreatestProbability) {
  Heads heads(1, 3);
  const float logits[] = {std::log(2.0f), std::log(5.0f), std::log(1.0f)};
  std::copy(std::begin(logits), std::end(logits), heads.logits.as<float>());
  heads.labels.as<std::int32_t>()[0] = 1;
  heads.run(true);
  EXPECT_NEAR(heads.sums.as<double>()[1], 5.0 / 8 * heads.sums.as<double>()[0], 1e-6);
  EXPECT_NEAR(heads.dlogits.as<float>()[0], 0.5 * 5 / 8 * 2 / 8, 1e-6);
  EXPECT_EQ(heads.sums.as<double>()[2], 1);
}

TEST(SoftmaxLoss, ShowsEveryNaN) {
  for (const std::int64_t at : {0, 1, 31, 32, 56}) {
    Heads heads(2, 57);
    heads.logits.as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
    heads.run();
    EXPECT_TRUE(std::isnan(heads.sums.as<double>()[0])) << at;
    for (std::int64_t j = 0; j < 57; ++j) EXPECT_TRUE(std::isnan(heads.dlogits.as<float>()[j])) << at;
    EXPECT_FALSE(std::isnan(heads.dlogits.as<float>()[57])) << "the other row";
  }
  Heads heads(1, 57);
  std::fill_n(heads.logits.as<float>(), 57, std::numeric_limits<float>::quiet_NaN());
  heads.run();
  EXPECT_TRUE(std::isnan(heads.sums.as<double>()[0]));
  EXPECT_EQ(heads.argmax.as<std::int32_t>()[0], 0);
}

TEST(SoftmaxLoss, ALabelOutsideTheVocabularyIsInfinitelyWrong) {
  Heads heads(1, 57);
  heads.labels.as<std::int32_t>()[0] = 57;
  heads.run();
  EXPECT_EQ(heads.sums.as<double>()[0], kInfinity);
}

}  // namespace
}  // namespace offramp::testing
