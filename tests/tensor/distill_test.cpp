// The loss of an exit beside a teacher, against double precision, over slices of a vocabulary.
#include "distill.h"
#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

struct Slice {
  std::int64_t n, columns, first;
};

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

std::vector<Operand> operands_of(Slice s, const Wanted& wanted) {
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
  if (wanted.towards != Towards::distribution)
    all.push_back(ids("targets", {s.n}, wanted.towards == Towards::labels ? some_labels(s) : some_argmax(s, 3)));
  if (wanted.temperature != 1) all.push_back(input("softened", {s.n, 2}, [](std::int64_t i) { return 3.0 + static_cast<double>(i % 5); }));
  return all;
}

void reference(Values& v, Slice s, const Wanted& wanted) {
  const bool distribution = wanted.towards == Towards::distribution, whole = s.first == 0, softens = v.count("softened") > 0;
  const double t = wanted.temperature;
  for (Index i = 0, columns = static_cast<Index>(s.columns); i < static_cast<Index>(s.n); ++i) {
    const bool counts = v["labels"][i] >= 0;
    const double max = v["stats"][3 * i], sum = v["stats"][3 * i + 1], weight = wanted.confidence ? 1 / sum : 1;
    const double teacher_max = v["teacher_stats"][3 * i], teacher_sum = v["teacher_stats"][3 * i + 1];
    const double soft_sum = softens ? v["softened"][2 * i] : sum, soft_teacher_sum = softens ? v["softened"][2 * i + 1] : teacher_sum;
    double accepted = 0, cross = 0;
    for (Index j = i * columns; j < (i + 1) * columns; ++j) {
      const double x = v["logits"][j] - max, y = v["teacher_logits"][j] - teacher_max;
      const double p = std::exp(x / t) / soft_sum, q = std::exp(y / t) / soft_teacher_sum;
      const bool hot = !distribution && static_cast<double>(s.first) + static_cast<double>(j % columns) == v["targets"][i];
      const bool label = static_cast<double>(s.first) + static_cast<double>(j % columns) == v["labels"][i];
      const double of_labels = wanted.labels * (std::exp(x) / sum - (label ? 1 : 0));
      v["dlogits"][j] = counts ? v["scale"][0] * weight * (t * (p - (distribution ? q : hot ? 1 : 0)) + of_labels) : 0;
      accepted += std::min(std::exp(x) / sum, std::exp(y) / teacher_sum);
      cross -= q * x / t;
    }
    if (!counts) continue;
    const double top = std::log(sum) + max, hit = whole ? top - v["stats"][3 * i + 2] : 0;
    const double column = v["labels"][i] - static_cast<double>(s.first);
    const bool here = column >= 0 && column < static_cast<double>(columns);
    const double at_label = here ? v["logits"][i * columns + static_cast<Index>(column)] : 0;
    v["sums"][0] += distribution ? hit : (whole ? top : 0) - at_label;
    v["sums"][1] += weight * (distribution ? t * t * ((whole ? std::log(soft_sum) : 0) + cross) + wanted.labels * hit : hit);
    v["sums"][4] += accepted;
    if (!whole) continue;
    v["sums"][2] += v["argmax"][i] == v["labels"][i] ? 1 : 0;
    v["sums"][3] += 1;
    v["sums"][5] += v["argmax"][i] == v["teacher_argmax"][i] ? 1 : 0;
  }
}

Scores scores_of(const Tensors& t) { return {t["logits"], t["stats"], t["argmax"]}; }
Scores teacher_of(const Tensors& t) { return {t["teacher_logits"], t["teacher_stats"], t["teacher_argmax"]}; }

Case distill_case(Slice s, const Wanted& wanted) {
  return {.name = fmt::format("softmax_distill n={} columns={} first={} towards={} confidence={} temperature={} labels={}", s.n, s.columns,
                              s.first, static_cast<int>(wanted.towards), wanted.confidence, wanted.temperature, wanted.labels),
          .operands = operands_of(s, wanted),
          .run =
              [=](Context& c, const Tensors& t) {
                const LossOptions options{t["scale"], wanted.confidence, wanted.temperature, wanted.labels};
                softmax_distill(c, t["sums"], t["dlogits"], scores_of(t), teacher_of(t), t["labels"], t["targets"], s.first, options,
                                t["softened"]);
              },
          .reference = [=](Values& v) { reference(v, s, wanted); },
          .aliases = {{"dlogits", "logits"}}};
}

constexpr std::array kSlices{Slice{1, 1, 0}, Slice{7, 5, 0}, Slice{9, 33, 40}, Slice{11, 100, 3}, Slice{64, 1000, 0}};

TEST(SoftmaxDistill, WholeAndSliced) {
  for (const Wanted& wanted : everything_wanted())
    for (const Slice& s : kSlices) {
      check_case(distill_case(s, wanted));
      Case rounded = in_bf16(distill_case(s, wanted), {"dlogits"});
      rounded.aliases.clear();
      check_case(rounded);
    }
}

Case soften_case(Slice s, float temperature) {
  std::vector<Operand> operands{output("softened", {s.n, 2}, 16)};
  for (const Operand& o : operands_of(s, {Towards::distribution, false}))
    if (o.role == Role::input && o.name != "labels" && o.name != "scale") operands.push_back(o);
  return {.name = fmt::format("softmax_soften n={} columns={} temperature={}", s.n, s.columns, temperature),
          .operands = operands,
          .run = [=](Context& c, const Tensors& t) { softmax_soften(c, t["softened"], scores_of(t), teacher_of(t), temperature); },
          .reference =
              [=](Values& v) {
                for (Index i = 0, columns = static_cast<Index>(s.columns); i < static_cast<Index>(2 * s.n); ++i) {
                  const std::string who = i % 2 ? "teacher_" : "";
                  const auto* row = &v[who + "logits"][i / 2 * columns];
                  v["softened"][i] = 0;
                  for (Index j = 0; j < columns; ++j) v["softened"][i] += std::exp((row[j] - v[who + "stats"][i / 2 * 3]) / temperature);
                }
              }};
}

TEST(SoftmaxDistill, SumsOfSoftenedExponentials) {
  for (const float temperature : kTemperatures)
    for (const Slice& s : kSlices) check_case(soften_case(s, temperature));
}

}  // namespace
}  // namespace offramp::testing
