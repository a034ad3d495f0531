#include "checkpoint/sort_channels.h"

#include <algorithm>

#include "checkpoint/gather.h"
#include "models/channels.h"

namespace offramp {
namespace {

class Sorter {
 public:
  explicit Sorter(Machine& machine) : machine_(machine), gatherer_(machine) {}

  void sort(const Channels& channels) {
    std::vector<double> importance(static_cast<std::size_t>(channels.segments * channels.count));
    for (const ChannelPart& part : channels.parts)
      each_window(part, kWeights, [&](std::span<float> lines, const Gatherer::Lines&) { add_magnitudes(importance, lines, part); });
    const std::vector<std::int64_t> order = order_by_importance(channels, importance);  // on rank 0, where all is put in order
    for (const ChannelPart& part : channels.parts) {
      const std::vector<std::int64_t> elements = element_order(order, part.width);
      for (const std::string& kind : saved_kinds(machine_.options()))
        each_window(part, kind, [&](std::span<float> lines, const Gatherer::Lines& which) {
          permute_lines(lines, elements);
          gatherer_.scatter(which, lines);
        });
    }
  }

  void settle() { gatherer_.settle(); }

 private:
  using Take = std::function<void(std::span<float> lines, const Gatherer::Lines& which)>;  // empty but on rank 0
  void each_window(const ChannelPart& part, const std::string& kind, const Take& take) {
    const auto [length, all] = gatherer_.extent(part.tensor, part.axis);
    const std::int64_t most = std::max<std::int64_t>(1, Gatherer::kMost / length);
    for (std::int64_t first = 0; first < all; first += most) {
      const Gatherer::Lines which{part.tensor, part.axis, first, std::min(most, all - first), kind};
      take(gatherer_.gather(which), which);
      machine_.context().beat();
    }
  }

  Machine& machine_;
  Gatherer gatherer_;
};

}  // namespace

std::vector<std::string> sort_channels(Machine& machine) {
  std::vector<std::string> axes;
  Sorter sorter(machine);
  for (const Channels& channels : elastic_channels(machine.model())) {
    sorter.sort(channels);
    if (std::ranges::count(axes, channels.axis) == 0) axes.push_back(channels.axis);
  }
  if (!axes.empty()) sorter.settle();
  return axes;
}

}  // namespace offramp
