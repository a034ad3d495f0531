#include "parallel/partition.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "parallel/work.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// Sums of the same layers in the same order: equal work gives equal bits.
double sum(std::span<const double> work, int begin, int end) { return std::accumulate(work.begin() + begin, work.begin() + end, 0.0); }

struct Balance {
  double largest = std::numeric_limits<double>::infinity(), squares = std::numeric_limits<double>::infinity();
};

// By more than the rounding of sums whose terms come in another order.
bool smaller(double a, double b) {
  constexpr double kRounding = 1e-9;
  return a < b * (1 - kRounding);
}
bool better(const Balance& a, const Balance& b) {
  if (smaller(a.largest, b.largest) || smaller(b.largest, a.largest)) return a.largest < b.largest;
  return smaller(a.squares, b.squares);
}

Balance joined(const Balance& a, double stage) { return {std::max(a.largest, stage), a.squares + stage * stage}; }

Balance balance_of(std::span<const double> work, std::span<const int> layers) {
  Balance all{0, 0};
  int end = static_cast<int>(work.size());
  for (auto it = layers.rbegin(); it != layers.rend(); ++it, end = end - *(it - 1)) all = joined(all, sum(work, end - *it, end));
  return all;
}

std::vector<int> even_layers(int layers, int stages) {
  std::vector<int> even;
  for (int s = 0; s < stages; ++s) even.push_back(layers / stages + (s < layers % stages ? 1 : 0));
  return even;
}

struct RankBalance {
  Balance ranks, stages;
};

// Stage s is on rank s mod `ranks`.
RankBalance balance_of(std::span<const double> work, std::span<const int> layers, int ranks) {
  std::vector<double> loads(static_cast<std::size_t>(ranks), 0);
  RankBalance all{{0, 0}, balance_of(work, layers)};
  int begin = 0;
  for (std::size_t s = 0; s < layers.size(); begin += layers[s++]) loads[s % loads.size()] += sum(work, begin, begin + layers[s]);
  for (const double load : loads) all.ranks = joined(all.ranks, load);
  return all;
}

bool better(const RankBalance& a, const RankBalance& b) {
  if (better(a.ranks, b.ranks) || better(b.ranks, a.ranks)) return better(a.ranks, b.ranks);
  return better(a.stages, b.stages);
}

}  // namespace

std::vector<double> layer_work(const ModelConfig& model, std::span<const ExitSpec> exits, const PartitionOptions& options) {
  const LayerFlops layer = layer_flops(model, options.sequence_length);
  const double output = options.split_heads ? 0 : output_flops(model).sum();
  const bool frozen = options.frozen_backbone;
  const double of_layer = frozen ? layer.attention.forward + layer.mlp.forward : layer.attention.sum() + layer.mlp.sum();
  const bool taught = learns_from_final(exits);
  std::vector<double> work(static_cast<std::size_t>(frozen && !taught ? exits.back().layer : model.num_hidden_layers), of_layer);
  const double of_exit = output + (taught ? output_flops(model).forward : 0);
  for (const ExitSpec& exit : exits) work[static_cast<std::size_t>(exit.layer - 1)] += of_exit + body_flops(exit.head, layer).sum();
  if (!frozen) work.back() += output;
  return work;
}

// best[s][l]: of the last s stages with the layers from l on.
std::vector<int> balanced_layers(std::span<const double> work, int stages) {
  const int layers = static_cast<int>(work.size());
  if (stages > layers) fail(Exit::configuration, "{} stages for {} layers: each needs one", stages, layers);
  const auto at = [](int i) { return static_cast<std::size_t>(i); };
  std::vector best(at(stages + 1), std::vector<Balance>(at(layers + 1)));
  std::vector taken(at(stages + 1), std::vector<int>(at(layers + 1), 0));
  best[0][at(layers)] = {0, 0};
  for (int s = 1; s <= stages; ++s)
    for (int l = layers - s; l >= 0; --l)
      for (int n = layers - l - (s - 1); n >= 1; --n) {  // most layers first: of equals the first one stays
        const Balance one = joined(best[at(s - 1)][at(l + n)], sum(work, l, l + n));
        if (better(one, best[at(s)][at(l)])) best[at(s)][at(l)] = one, taken[at(s)][at(l)] = n;
      }
  const std::vector<int> even = even_layers(layers, stages);
  if (!better(best[at(stages)][0], balance_of(work, even))) return even;
  std::vector<int> chosen;
  for (int s = stages, l = 0; s > 0; l += chosen.back(), --s) chosen.push_back(taken[at(s)][at(l)]);
  return chosen;
}

std::vector<int> balanced_ranks(std::span<const double> work, const std::vector<int>& layers, int ranks) {
  RankBalance best = balance_of(work, layers, ranks);
  for (std::vector<int> now = layers, next = layers;; now = next) {
    for (std::size_t from = 0; from < now.size(); ++from)
      for (std::size_t to = 0; to < now.size(); ++to) {
        if (from == to || now[from] == 1) continue;
        std::vector<int> moved = now;
        --moved[from], ++moved[to];
        const RankBalance found = balance_of(work, moved, ranks);
        if (better(found, best)) best = found, next = std::move(moved);
      }
    if (next == now) return now;
  }
}

std::vector<int> choose_layers(const ModelConfig& model, std::span<const ExitSpec> exits, const PartitionOptions& options) {
  const std::vector<double> work = layer_work(model, exits, options);
  const std::vector<int> layers = balanced_layers(work, options.stages);
  return options.stages_per_rank == 1 ? layers : balanced_ranks(work, layers, options.stages / options.stages_per_rank);
}

Partition partition_of(std::span<const int> layers_per_stage) {
  Partition partition;
  int layer = 0;
  for (const int n : layers_per_stage) {
    partition.first_unit.push_back(layer == 0 ? 0 : 1 + 2 * layer);
    layer += n;
  }
  partition.first_unit.push_back(1 + 2 * layer);
  return partition;
}

std::string layers_text(const Partition& partition, int rank, int ranks) {
  std::string text;
  for (int s = rank; s < partition.stages(); s += ranks) {
    const Units units = partition.units(s);
    text += fmt::format("{}{}-{}", text.empty() ? "" : " ", units.begin / 2 + 1, units.end / 2);
  }
  return text;
}

}  // namespace offramp
