#include "search/sample.h"

#include <algorithm>

#include "tensor/random.h"

namespace offramp {

std::vector<Subnet> sample_subnets(const Space& space, const ModelConfig& model, std::int64_t count, std::uint64_t seed) {
  const auto all = static_cast<std::int64_t>(count_of(space));
  std::vector<Subnet> sample;
  const auto add = [&](const Subnet& subnet) {
    const bool fits = std::ssize(sample) < std::min(count, all) && std::ranges::count(sample, shortened(subnet, model)) == 0;
    if (fits) sample.push_back(shortened(subnet, model));
  };
  add({}), add(smallest(space));
  for (const std::int64_t depth : space.num_hidden_layers) add({.num_hidden_layers = depth});
  if (count >= all) {
    for (std::int64_t i = 0; i < all; ++i) add(nth_of(space, i));
    return sample;
  }
  const Key key{seed, Use::subnet, hash("search: sample")};
  const auto tries = static_cast<std::uint64_t>(100 * count);
  for (std::uint64_t i = 0; i < tries; ++i) add(nth_of(space, static_cast<std::int64_t>(bits(key, i) % static_cast<std::uint64_t>(all))));
  for (std::int64_t i = 0; i < all && std::ssize(sample) < count; ++i) add(nth_of(space, i));  // hardly any is left to be drawn
  return sample;
}

}  // namespace offramp
