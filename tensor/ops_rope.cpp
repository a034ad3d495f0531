// Rotary frequencies, which readers of files need without any operation.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/ops.h"

namespace offramp {

double RopeFrequencies::at(std::int64_t i, std::int64_t d) const {
  const double f = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
  const double turns = original_positions * f / (2 * std::numbers::pi);
  const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);  // of the frequency; the rest of it is divided
  return factor == 1 ? f : (1 - kept) * f / factor + kept * f;
}

}  // namespace offramp
