// Evolution of subnets (as OFA searches its space, arXiv 1908.09791): of those that keep to a limit the best ones are crossed and changed
// at random, generation by generation. All loops are bounded, nothing is measured: what subnets are worth and cost is asked of functions
// (search/predictor.h).
//
//   const auto best = evolve({.space = space, .model = model, .loss = loss, .cost = flops, .limit = 12e6, .seed = seed}, 2);
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "models/subnet.h"

namespace offramp {

struct EvolutionOptions {
  Space space;
  ModelConfig model;
  std::function<double(const Subnet&)> loss, cost;
  double limit = 0;           // of the cost
  std::vector<Subnet> begin;  // the first generation, beside random ones; those beyond the limit are passed over
  std::uint64_t seed = 0;
  int population = 64, parents = 16, generations = 24;
  double mutation = 0.2;  // the chance of each axis of a child to be drawn anew
};

// Up to `count` of all that were met, the least loss first; none where nothing was met that keeps to the limit. Same seed, same subnets.
std::vector<Subnet> evolve(const EvolutionOptions& options, std::size_t count);

}  // namespace offramp
