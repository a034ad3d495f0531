// Partial microbatches in the explicit gaps of 1F1B (EE-LLM, arXiv 2312.04916): samples beyond the batch, for work that costs no time.
//
//   warmup    before a stage's first backward: microbatches that turn round at the last exit within reach, so that the first stages'
//             exits, and what is below them, learn from more samples
//   cooldown  after a stage's last backward: microbatches that go all the way, and back through the last stages only
//
// Gradients stay means: what learns from more samples is divided by more (fill_weights). Partial microbatches are numbered in the order in
// which they go back: those of the warm-up come before all whole ones, those of the cool-down after them.
#pragma once
#include <span>

#include "parallel/schedule.h"

namespace offramp {

enum class Fill { none, warmup, cooldown };
inline constexpr int kBackwardOverForward = 2;  // of time; one more where the backward runs the forward again

// How many fit into a gap. `ratio`: a stage's backward over its forward.
constexpr int gap_microbatches(int stages, int ratio) { return (stages - 1) * ratio / (1 + ratio); }

struct FillOptions {
  Fill fill = Fill::none;
  int partial = 0, ratio = kBackwardOverForward;  // partial: how many are tried
};
// How far each microbatch goes, of a layout whose microbatches are whole. Of the warm-up's those are left out that meet no exit.
std::vector<Reach> filled_reach(const FillOptions& options, const Layout& layout);

bool is_whole(int microbatch, const Layout& layout);
int first_whole(const Layout& layout);  // how many partial ones come before

// 1F1B with partial microbatches in its gaps.
Schedule filled_one_f_one_b(const Layout& layout);

// By what the sums of a step are divided. `counted`: tokens with a target, of each microbatch, over all data ranks.
struct FillWeights {
  std::vector<double> exits;      // tokens that each exit's loss is divided by
  std::vector<double> gradients;  // factor on all gradients of each stage, before copies on other stages are added
};
FillWeights fill_weights(Fill fill, const Layout& layout, std::span<const double> counted);

}  // namespace offramp
