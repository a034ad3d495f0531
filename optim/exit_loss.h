// The ramp of the exits' loss weights: at step t every exit's weight is multiplied by one scale, from start_scale to 1 over the
// warm-up. The final head's weight is not scaled.
//
//   weight = exit.loss_weight * exit_loss_scale("linear", 0.0, 100, t);
#pragma once
#include <cstdint>
#include <string_view>

namespace offramp {

// At step t (from 1), u = t / warmup_steps: start + (1 - start) * u (linear) or * (1 - cos(pi u)) / 2 (cosine), 1 from the end of
// the warm-up on. Always 1 for `constant` and without a warm-up.
double exit_loss_scale(std::string_view schedule, double start_scale, std::int64_t warmup_steps, std::int64_t t);

}  // namespace offramp
