// LayerSkip's recipe (Elhoushi et al., arXiv 2404.16710, section 4.1): whole layers are dropped per sample, later ones more often,
// and every exit's loss, the final one's too, gets a weight that grows with depth. Layers l count from 0 here (the exit at layer n
// reads l = n - 1), steps t from 0; L layers, T steps.
//
//   const std::vector<double> weights = layerskip_weights(config, exit_layers, {L, T}, t);
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace offramp {

struct LayerSkipConfig {
  bool enabled = false;
  double p_max = 0;                       // of the last layer at the last step
  std::string time = "constant";          // constant (from trained weights) | exponential (from scratch)
  double e_scale = 0.2;                   // weight of inner exits against the final head
  std::string curriculum = "rotational";  // rotational | gradual: which exits have a loss at a step
  std::int64_t rotation = 1;              // rotational: an exit is on at every rotation-th step
};
struct LayerSkipExtent {
  std::int64_t layers = 1, steps = 1;
};

// Probability that a sample skips layer l at step t: S(t) D(l) p_max, D(l) = e^(l ln2 / (L-1)) - 1, S = 1 or e^(t ln2 / (T-1)) - 1.
// The first layer is never skipped, nor, with `exponential`, any at the first step.
double layerskip_rate(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::int64_t l, std::int64_t t);

// C(t, l): whether the exit that reads layer l has a loss at step t. Rotational: (l - t) mod R = 0; gradual: from the last layer
// down, one more every T / (2L) steps. The last layer always has.
bool layerskip_on(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::int64_t l, std::int64_t t);

// Weights of the exits at `exit_layers` (from 1) and then of the final head at step t; their sum is 1. C e(l) / sum C e, with
// e(l) = e_scale * (0 + 1 + ... + l) and, for the last layer, (L-1) + e_scale * (0 + ... + L-2). An exit of layer 1 weighs nothing.
// In a model of one layer all would be 0: there the final head has 1.
std::vector<double> layerskip_weights(const LayerSkipConfig& config, const LayerSkipExtent& extent, std::span<const int> exit_layers,
                                      std::int64_t t);

}  // namespace offramp
