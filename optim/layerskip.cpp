#include "optim/layerskip.h"

#include <cmath>
#include <numeric>

#include "tensor/check.h"

namespace offramp {
namespace {

// e^(i ln2 / (count - 1)) - 1: from 0 at the first i to 1 at the last. Where there is but one, it is the first.
double exponential_rise(std::int64_t i, std::int64_t count) {
  return count > 1 ? std::exp2(static_cast<double>(i) / static_cast<double>(count - 1)) - 1 : 0;
}

double sum_to(std::int64_t n) { return static_cast<double>(n) * static_cast<double>(n + 1) / 2; }  // 0 + 1 + ... + n

// e(l).
double importance(const LayerSkipConfig& config, std::int64_t layers, std::int64_t l) {
  if (l < layers - 1) return config.e_scale * sum_to(l);
  return static_cast<double>(layers - 1) + config.e_scale * sum_to(layers - 2);
}

}  // namespace

double layerskip_rate(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::int64_t l, std::int64_t t) {
  const bool exponential = config.time == "exponential";
  OFFRAMP_CHECK(exponential || config.time == "constant", "[layerskip] no course in time is called {}", config.time);
  return (exponential ? exponential_rise(t, extent.steps) : 1) * exponential_rise(l, extent.layers) * config.p_max;
}

bool layerskip_on(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::int64_t l, std::int64_t t) {
  const bool rotational = config.curriculum == "rotational";
  OFFRAMP_CHECK(rotational || config.curriculum == "gradual", "[layerskip] no curriculum is called {}", config.curriculum);
  if (l == extent.layers - 1) return true;
  if (rotational) return (l - t) % config.rotation == 0;
  const std::int64_t above = extent.layers - 1 - l;  // on first
  return static_cast<double>(above) * static_cast<double>(extent.steps) <=
         2.0 * static_cast<double>(extent.layers) * static_cast<double>(t);
}

std::vector<double> layerskip_weights(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::span<const int> exit_layers,
                                      std::int64_t t) {
  std::vector<double> weights;
  for (const int layer : exit_layers) {
    weights.push_back(layerskip_on(config, extent, layer - 1, t) ? importance(config, extent.layers, layer - 1) : 0);
  }
  weights.push_back(importance(config, extent.layers, extent.layers - 1));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (sum == 0) weights.back() = 1;
  for (double& w : weights) w /= sum == 0 ? 1 : sum;
  return weights;
}

}  // namespace offramp
