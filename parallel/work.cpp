#include "parallel/work.h"

namespace offramp {
namespace {

// Two an element forward, and for each gradient.
PassFlops of_matrices(double elements) { return {2 * elements, 2 * elements, 2 * elements}; }

PassFlops operator*(double factor, const PassFlops& flops) { return {factor * flops.forward, factor * flops.input, factor * flops.weight}; }

PassFlops unit_flops(int unit, const LayerFlops& layer) {
  if (unit == 0) return {};  // lookups cost none
  return unit % 2 == 1 ? layer.attention : layer.mlp;
}

PassFlops stage_flops(Units units, const LayerFlops& layer) {
  PassFlops stage;
  for (int u = units.begin; u < units.end; ++u) stage += unit_flops(u, layer);
  return stage;
}

}  // namespace

PassFlops& PassFlops::operator+=(const PassFlops& other) {
  forward += other.forward, input += other.input, weight += other.weight;
  return *this;
}

// Scores and their sums over values are of half of the keys on average; their backward, which makes the scores again, costs two and a
// half times as much, and has no weights.
LayerFlops layer_flops(const ModelConfig& m, std::int64_t sequence_length) {
  const auto h = static_cast<double>(m.hidden_size), kv = static_cast<double>(m.num_key_value_heads * m.head_size());
  const double scores = 2 * static_cast<double>(sequence_length) * h;
  LayerFlops layer{.attention = of_matrices(2 * h * h + 2 * h * kv),
                   .mlp = of_matrices((m.gpt2() ? 2.0 : 3.0) * h * static_cast<double>(m.intermediate_size)),
                   .scores = scores};
  layer.attention += {scores, 2.5 * scores, 0};
  return layer;
}

PassFlops body_flops(HeadKind head, const LayerFlops& layer) {
  PassFlops body;
  if (head == HeadKind::block || head == HeadKind::attention) body += layer.attention;
  if (head == HeadKind::block || head == HeadKind::mlp) body += layer.mlp;
  return body;
}

PassFlops output_flops(const ModelConfig& model) {
  return of_matrices(static_cast<double>(model.vocab_size) * static_cast<double>(model.hidden_size));
}

Times work_times(const Model& model, const Partition& partition, const Layout& layout, const WorkOptions& options) {
  const auto tokens = static_cast<double>(options.micro_batch_size * options.sequence_length);
  const LayerFlops of_head = layer_flops(model.config, options.sequence_length);
  LayerFlops layer = of_head;
  if (options.attention_again) layer.attention.input += layer.scores;
  std::vector<PassFlops> stages, bodies;
  for (int s = 0; s < partition.stages(); ++s)
    stages.push_back(model.given_taps ? PassFlops{} : tokens * stage_flops(partition.units(s), layer));
  for (const Head& head : model.heads) bodies.push_back(tokens * body_flops(head.spec().head, of_head));
  const PassFlops output = tokens * output_flops(model.config);
  const PassFlops part = 1.0 / layout.ranks * output;  // a rank's, where the matrix is split
  const bool split = layout.split_backward, train = layout.backward;
  const double teacher = layout.taught ? output.forward : 0;
  return [=](const Action& action) {
    const auto stage = static_cast<std::size_t>(action.stage), exit = static_cast<std::size_t>(action.index);
    switch (action.op) {
      case Op::Forward:
      case Op::Recompute:
        return stages[stage].forward;
      case Op::Backward:
        return stages[stage].input + (split ? 0 : stages[stage].weight);
      case Op::WeightGrad:
        return stages[stage].weight;
      case Op::Exit:
        return teacher + (train ? bodies[exit].sum() + output.sum() : bodies[exit].forward + output.forward);
      case Op::Tap:
        return bodies[exit].forward;
      case Op::Untap:
        return bodies[exit].input + bodies[exit].weight;
      case Op::Scores:
        return part.forward;
      case Op::HeadBackward:
        return part.input;
      case Op::HeadWeightGrad:
        return part.weight;
      default:
        return 0.0;
    }
  };
}

}  // namespace offramp
