#include "search/pareto.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace offramp {

std::vector<std::size_t> pareto_front(std::span<const CostAndLoss> all) {
  std::vector<std::size_t> order(all.size()), front;
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](std::size_t i) { return std::tuple(all[i].cost, all[i].loss, i); });
  for (const std::size_t i : order)
    if (front.empty() || all[i].loss < all[front.back()].loss) front.push_back(i);
  return front;
}

}  // namespace offramp
