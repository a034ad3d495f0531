// What turns gradients into weights: options, the learning rate, and one function over a rank's flat buffers.
#pragma once
#include <array>
#include <cstdint>
#include <string>

namespace offramp {

struct LrSchedule {
  std::string name = "constant";  // constant | linear | cosine | wsd
  std::int64_t warmup_steps = 0;  // lr * t / warmup_steps for t <= warmup_steps
  double min_lr = 0;
  std::int64_t decay_steps = 0;  // wsd: linear to min_lr over the last decay_steps
};
// Learning rate at step t (from 1) of `steps`.
double learning_rate(const LrSchedule& schedule, double lr, std::int64_t t, std::int64_t steps);

struct OptimizerConfig {
  std::string name = "adamw";  // adamw | sgd
  double lr = 0;
  std::array<double, 2> betas = {0.9, 0.95};
  double eps = 1e-8, weight_decay = 0.1, clip_grad_norm = 1.0;  // clip_grad_norm 0: no clipping
  double momentum = 0;
  bool nesterov = false;
  LrSchedule lr_schedule;
};

}  // namespace offramp
