// Steps of several passes over a small supernet: what the tests of passes and of their teachers run.
#pragma once
#include "tests/parallel/small_job.h"

namespace offramp::testing {

// Exits that subnets end with, one of each kind of body; the last layer has its final head alone.
inline std::vector<ExitSpec> exits_of_depths() {
  return {{.layer = 2, .head = HeadKind::norm, .loss_weight = 0.3},
          {.layer = 4, .head = HeadKind::block, .shared_output = true, .loss_weight = 0.25},
          {.layer = 6, .head = HeadKind::mlp, .loss_weight = 0.2}};
}

inline Space small_space() {
  return {.num_hidden_layers = {2, 4, 6, 8},
          .hidden_size = {16, 32},
          .intermediate_size = {16, 32, 48},
          .num_key_value_heads = {2, 4},
          .queries_per_group = {1, 2}};
}

inline Pass subnet(Subnet sizes, double weight, Teaching teaching) {
  return {.subnet = sizes, .weight = weight, .teaching = teaching, .regularise = false};
}

// What a step may have: narrow and deep, shallow and wide, small in all.
inline std::vector<Pass> small_subnets(Teaching teaching) {
  return {subnet({.intermediate_size = 16, .num_key_value_heads = 2}, 0.5, teaching),
          subnet({.num_hidden_layers = 6, .hidden_size = 16}, 0.75, teaching),
          subnet({.num_hidden_layers = 4, .intermediate_size = 32, .queries_per_group = 1}, 0.25, teaching),
          subnet(smallest(small_space()), 1, teaching)};
}

inline SmallJob supernet_job(std::vector<Pass> passes, bool tied = false) {
  SmallJob job = small_job(exits_of_depths(), tied);
  job.global_batch = 4;
  job.options.space = small_space();
  job.passes = std::move(passes);
  return job;
}

inline void add(ByName& sum, const ByName& grads) {
  for (const auto& [name, values] : grads) {
    auto& total = sum.try_emplace(name, values.size(), 0.0f).first->second;
    for (std::size_t i = 0; i < values.size(); ++i) total[i] += values[i];
  }
}

// What a step leaves out has a gradient of zeros, on every layout; taken from both, the rest can be compared.
inline void drop_zeros(StepResult& result, StepResult& expected) {
  std::erase_if(expected.grads, [&](const auto& tensor) {
    if (norm(tensor.second) > 0) return false;
    const auto same = result.grads.find(tensor.first);
    EXPECT_TRUE(same != result.grads.end() && norm(same->second) == 0) << tensor.first;
    result.grads.erase(tensor.first);
    return true;
  });
}

}  // namespace offramp::testing
