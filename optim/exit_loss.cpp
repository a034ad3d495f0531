#include "optim/exit_loss.h"

#include <cmath>
#include <numbers>

#include "tensor/check.h"

namespace offramp {

double exit_loss_scale(std::string_view schedule, double start_scale, std::int64_t warmup_steps, std::int64_t t) {
  const bool linear = schedule == "linear";
  OFFRAMP_CHECK(linear || schedule == "cosine" || schedule == "constant", "[exit_loss_scale] no schedule is called {}", schedule);
  if (schedule == "constant" || t >= warmup_steps) return 1;
  const double u = static_cast<double>(t) / static_cast<double>(warmup_steps);
  return start_scale + (1 - start_scale) * (linear ? u : (1 - std::cos(std::numbers::pi * u)) / 2);
}

}  // namespace offramp
