#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "parallel/partition.h"

namespace offramp {

std::string refuse_layers(std::span<const int> layers_per_stage, std::int64_t layers, int stages, bool frozen) {
  const std::int64_t all = std::accumulate(layers_per_stage.begin(), layers_per_stage.end(), std::int64_t{0});
  if (layers_per_stage.size() != static_cast<std::size_t>(stages))
    return fmt::format("names {} stages, but there are {}", layers_per_stage.size(), stages);
  if (std::ranges::any_of(layers_per_stage, [](int n) { return n < 1; })) return "leaves a stage without a layer; each needs one";
  if (all != layers)
    return fmt::format("adds up to {} layers, but {} {}", all, frozen ? "with a frozen backbone the last exit's layer is" : "the model has",
                       layers);
  return "";
}

}  // namespace offramp
