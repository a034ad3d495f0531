#include <algorithm>
#include <cmath>
#include <numbers>

#include "optim/optimizer.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// How far t is between `begin` (0) and `end` (1). A warm-up longer than the run leaves nothing between them.
double progress(std::int64_t t, std::int64_t begin, std::int64_t end) {
  if (t >= end) return 1;
  return std::max(0.0, static_cast<double>(t - begin) / static_cast<double>(end - begin));
}

}  // namespace

double learning_rate(const LrSchedule& schedule, double lr, std::int64_t t, std::int64_t steps) {
  const bool constant = schedule.name == "constant", linear = schedule.name == "linear", cosine = schedule.name == "cosine";
  OFFRAMP_CHECK(constant || linear || cosine || schedule.name == "wsd", "[learning_rate] no schedule is called {}", schedule.name);
  const auto warmup = schedule.warmup_steps;
  if (t <= warmup && warmup > 0) return lr * static_cast<double>(t) / static_cast<double>(warmup);

  const double range = lr - schedule.min_lr;
  if (constant) return lr;
  if (linear) return schedule.min_lr + range * (1 - progress(t, warmup, steps));
  if (cosine) return schedule.min_lr + range * (1 + std::cos(std::numbers::pi * progress(t, warmup, steps))) / 2;
  if (schedule.decay_steps == 0) return lr;
  return schedule.min_lr + range * (1 - progress(t, steps - schedule.decay_steps, steps));
}

}  // namespace offramp
