#include "parallel/unfused_memory.h"

#include <algorithm>

namespace offramp {
namespace {

// Of a token, in elements of the working type: what tensor parallelism leaves whole on every rank, and what it divides.
struct Kept {
  double whole, divided;
};

// Inputs of both norms and of the products behind them. Queries, keys, values, and their sums over probabilities; the MLP before and after
// its activation, with a gate three times.
Kept kept_of(const ModelConfig& m) {
  const auto h = static_cast<double>(m.hidden_size), q = static_cast<double>(m.num_attention_heads * m.head_size());
  const auto kv = static_cast<double>(m.num_key_value_heads * m.head_size());
  return {.whole = 4 * h, .divided = 2 * q + 2 * kv + (m.gpt2() ? 2.0 : 3.0) * static_cast<double>(m.intermediate_size)};
}

}  // namespace

double unfused_layer_bytes(const MachineOptions& options, int tensor) {
  const ModelConfig& m = options.model;
  const auto h = static_cast<double>(m.hidden_size), s = static_cast<double>(options.sequence_length);
  const double tokens = static_cast<double>(options.micro_batch_size) * s, element = static_cast<double>(size_of(options.precision));
  if (options.recompute == "full") return tokens * element * h;
  const Kept kept = kept_of(m);
  const double masks = m.hidden_dropout > 0 ? 2 * h : 0;  // a byte each, of attention's and of the MLP's output
  const double probability = m.attention_dropout > 0 ? 2 * element + 1 : element;
  const double scores = options.recompute == "selective" ? 0 : probability * static_cast<double>(m.num_attention_heads) * s;
  const double whole = element * kept.whole + masks, divided = element * kept.divided + scores;
  return tokens * (whole / (options.sequence_parallel ? tensor : 1) + divided / tensor);
}

int most_layers(const Program& program, const Layout& layout, const Partition& partition) {
  Layout kept = layout;  // where a forward is made again its input stays as long as all of it would
  kept.recompute.clear();
  int layers = 0, most = 0;
  const auto count = [&](const std::vector<Slab>& slabs, int sign) {
    for (const Slab& slab : slabs)
      if (slab.what == Hold::Stash) layers += sign * (partition.units(slab.stage).end - partition.units(slab.stage).begin) / 2;
  };
  for (const Action& action : program) {
    if (action.op == Op::Recompute) continue;
    const Lifetimes slabs = lifetimes(action, kept);
    count(slabs.takes, 1);
    most = std::max(most, layers);
    count(slabs.gives, -1);
  }
  return most;
}

}  // namespace offramp
