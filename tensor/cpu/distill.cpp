#include <cmath>
#include <limits>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::cpu {
namespace {

// A row of a range: the probability of column j is e^(logits[j] - max) / sum.
struct Row {
  const float* logits;
  float max, sum;
};

Row row_of(const Scores& scores, std::int64_t i) {
  const float* stats = scores.stats.as<float>() + 3 * i;
  return {scores.logits.as<float>() + i * scores.logits.shape[1], stats[0], stats[1]};
}

// Over the columns of a row: the sums of min(p, q) and of q (x - max), where x are p's logits, sharpened.
struct Overlap {
  float shared, mean;
};

constexpr auto kAsItIs = [](float x) { return x; };
constexpr auto kNothing = [](std::int64_t, float, float) {};

// sharpen(x_j - max) is an exponent. give(j, e^ that, the same of the teacher) may write to x's memory. Sums are folded as fold_lanes does
// it, both at once.
template <class Sharpen, class Give>
Overlap overlap(const Row& exit, const Row& teacher, std::int64_t columns, Sharpen sharpen, Give give) {
  const float p_scale = 1 / exit.sum, q_scale = 1 / teacher.sum;
  float shared[kFoldLanes] = {}, mean[kFoldLanes] = {};
  const auto term = [&](std::int64_t j, int l) {
    const float x = sharpen(exit.logits[j] - exit.max);
    const float e = exp_fast(x), t = exp_fast(sharpen(teacher.logits[j] - teacher.max));
    const float p = p_scale * e, q = q_scale * t;
    shared[l] += p < q ? p : q;  // a NaN of the teacher shows; one of the exit shows in its loss
    mean[l] += q * x;
    give(j, e, t);
  };
  std::int64_t i = 0;
  for (; i + kFoldLanes <= columns; i += kFoldLanes) {
#pragma omp simd
    for (int l = 0; l < kFoldLanes; ++l) term(i + l, l);
  }
  for (int l = 0; i < columns; ++i, ++l) term(i, l);
  for (int width = kFoldLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) shared[l] += shared[l + width], mean[l] += mean[l + width];
  }
  return {shared[0], mean[0]};
}

// What a row is trained towards, and its weight. target: a column, maybe of another range; kDistribution: the teacher's distribution.
struct Goal {
  std::int64_t target;
  float weight;
  const float* softened;  // sums of exit and teacher at the temperature; null: it is 1
  float temperature;
  std::int64_t label;  // a column, maybe of another range
  float labels;        // the weight of its loss beside the distribution's
};
constexpr std::int64_t kDistribution = std::numeric_limits<std::int64_t>::min();

// d_j = of(j, e^x_j, e^y_j), sharpened x and y, less the label's part of its own loss.
template <class D, class Sharpen, class Of>
Overlap give_gradient(D* d, const Row& exit, const Row& teacher, const Goal& goal, std::int64_t columns, Sharpen sharpen, Of of) {
  const std::int64_t label = goal.label;
  const bool here = goal.labels > 0 && label >= 0 && label < columns;
  const auto term = [&](const Row& row) { return exp_fast(sharpen(row.logits[label] - row.max)); };
  const float at_label = here ? of(label, term(exit), term(teacher)) - goal.labels * goal.weight : 0;  // before d, maybe their memory
  const Overlap both = overlap(exit, teacher, columns, sharpen, [=](std::int64_t j, float e, float t) { d[j] = rounded<D>(of(j, e, t)); });
  if (here) d[label] = rounded<D>(at_label);
  return both;
}

// d = weight * T * (p_T - q_T): p_T = e^((x - max) / T) / its sum. The measure is that of p and q, the sum of q_T (x - max) / T.
template <class D>
Overlap learn_softened(D* d, Row exit, Row teacher, const Goal& goal, std::int64_t columns) {
  const float shared = overlap(exit, teacher, columns, kAsItIs, kNothing).shared;
  const float of_labels = goal.labels * goal.weight / exit.sum;
  exit.sum = goal.softened[0], teacher.sum = goal.softened[1];
  const auto sharpen = [sharpness = 1 / goal.temperature](float x) { return x * sharpness; };
  if (!d) return {shared, overlap(exit, teacher, columns, sharpen, kNothing).mean};
  const float scale = goal.weight * goal.temperature / exit.sum, q_scale = goal.weight * goal.temperature / teacher.sum;
  const auto taught = [=](std::int64_t, float e, float t) { return scale * e - q_scale * t; };
  if (goal.labels == 0) return {shared, give_gradient(d, exit, teacher, goal, columns, sharpen, taught).mean};
  const auto both = [=](std::int64_t j, float e, float t) { return taught(j, e, t) + of_labels * exp_fast(exit.logits[j] - exit.max); };
  return {shared, give_gradient(d, exit, teacher, goal, columns, sharpen, both).mean};
}

// d = weight * (p - q) or weight * (p - onehot), the latter in the operations of softmax_loss; null: not wanted.
template <class D>
Overlap learn(D* d, const Row& exit, const Row& teacher, const Goal& goal, std::int64_t columns) {
  if (goal.softened) return learn_softened(d, exit, teacher, goal, columns);
  if (!d) return overlap(exit, teacher, columns, kAsItIs, kNothing);
  const float scale = goal.weight / exit.sum, q_scale = goal.weight / teacher.sum;
  if (goal.target == kDistribution)
    return give_gradient(d, exit, teacher, goal, columns, kAsItIs,
                         [=, both = (1 + goal.labels) * scale](std::int64_t, float e, float t) { return both * e - q_scale * t; });
  const bool here = goal.target >= 0 && goal.target < columns;
  const float at_target = here ? scale * exp_fast(exit.logits[goal.target] - exit.max) - goal.weight : 0;  // before d, maybe their memory
  const Overlap both = overlap(exit, teacher, columns, kAsItIs, [=](std::int64_t j, float e, float) { d[j] = rounded<D>(scale * e); });
  if (here) d[goal.target] = rounded<D>(at_target);
  return both;
}

constexpr int kParts = 3;  // of a row: the two sums of an Overlap, and the label's logit

// In row order and in double, as the sums of softmax_loss.
struct Counting {
  const float *stats, *parts, *softened;
  const std::int32_t *best, *teacher, *label;
  double temperature, labels;                    // of softened sums; the weight of their loss beside a distribution's
  bool argmax, distribution, confidence, whole;  // whole: what is known of whole rows counts here

  void add(double* sums, std::int64_t i) const {
    if (label[i] < 0) return;
    const float* part = parts + kParts * i;
    const double sum = stats[3 * i + 1], top = stats[3 * i] + std::log(sum), hit = top - stats[3 * i + 2];
    const double of_label = argmax ? (whole ? top : 0) - part[2] : whole ? hit : 0;
    const double trained = distribution ? cross_entropy(i, sum) + (whole ? labels * hit : 0) : whole ? hit : 0;
    sums[0] += of_label;
    sums[1] += confidence ? trained / sum : trained;
    sums[4] += part[0];
    if (!whole) return;
    sums[2] += best[i] == label[i] ? 1 : 0;
    sums[3] += 1;
    sums[5] += best[i] == teacher[i] ? 1 : 0;
  }
  // log sum - sum of q (x - max); softened: T^2 times that at the temperature.
  double cross_entropy(std::int64_t i, double sum) const {
    if (!softened) return (whole ? std::log(sum) : 0) - parts[kParts * i + 1];
    return temperature * temperature * ((whole ? std::log(static_cast<double>(softened[2 * i])) : 0) - parts[kParts * i + 1]);
  }
};

}  // namespace

void softmax_soften(Tensor softened, const Scores& exit, const Scores& teacher, float temperature) {
  const std::int64_t n = exit.logits.shape[0], columns = exit.logits.shape[1];
  auto* sums = softened.as<float>();
  const float sharpness = 1 / temperature;
#pragma omp parallel for if (n * columns > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const Row x = row_of(exit, i), q = row_of(teacher, i);
    sums[2 * i] = sum_lanes(columns, [=](std::int64_t j) { return exp_fast((x.logits[j] - x.max) * sharpness); });
    sums[2 * i + 1] = sum_lanes(columns, [=](std::int64_t j) { return exp_fast((q.logits[j] - q.max) * sharpness); });
  }
}

void softmax_distill(Tensor sums, Tensor dlogits, const Scores& exit, const Scores& teacher, Tensor labels, Tensor targets,
                     std::int64_t first, const LossOptions& options, const DistillMemory& memory) {
  const std::int64_t n = exit.logits.shape[0], columns = exit.logits.shape[1];
  const std::int32_t *label = labels.as<std::int32_t>(), *target = optional<std::int32_t>(targets);
  const float scale = dlogits.defined() ? *options.scale.as<float>() : 0;
  float* parts = optional<float>(memory.partial);
  const float* softened = optional<float>(memory.softened);
  for_type(dlogits.dtype, [&]<class D>(D) {
    D* all = optional<D>(dlogits);
#pragma omp parallel for if (n * columns > kParallelElements)
    for (std::int64_t i = 0; i < n; ++i) {
      D* d = all ? all + i * columns : nullptr;
      if (label[i] < 0) {
        if (d) std::fill_n(d, columns, D{});
        continue;
      }
      const Row x = row_of(exit, i);
      const std::int64_t own = label[i] - first;
      const float at_label = own >= 0 && own < columns ? x.logits[own] : 0;     // before d, maybe their memory
      const float weight = options.confidence_weights ? scale / x.sum : scale;  // the greatest probability is e^0 / sum
      const Goal goal{.target = target ? target[i] - first : kDistribution,
                      .weight = weight,
                      .softened = softened ? softened + 2 * i : nullptr,
                      .temperature = options.temperature,
                      .label = own,
                      .labels = options.labels};
      const Overlap both = learn(d, x, row_of(teacher, i), goal, columns);
      if (!parts) continue;
      float* part = parts + kParts * i;
      part[0] = both.shared, part[1] = both.mean, part[2] = at_label;
    }
  });
  if (!sums.defined()) return;
  const Counting counting{.stats = exit.stats.as<float>(),
                          .parts = parts,
                          .softened = softened,
                          .best = exit.argmax.as<std::int32_t>(),
                          .teacher = teacher.argmax.as<std::int32_t>(),
                          .label = label,
                          .temperature = options.temperature,
                          .labels = options.labels,
                          .argmax = target && target != label,
                          .distribution = !target,
                          .confidence = options.confidence_weights,
                          .whole = first == 0};
  for (std::int64_t i = 0; i < n; ++i) counting.add(sums.as<double>(), i);
}

}  // namespace offramp::cpu
