// The Pareto front: what nothing else beats in both cost and loss.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace offramp {

struct CostAndLoss {
  double cost = 0, loss = 0;
};
// Their numbers, the cheapest first: each costs more, and loses less, than the one before. Of equal ones the first.
std::vector<std::size_t> pareto_front(std::span<const CostAndLoss> all);

}  // namespace offramp
