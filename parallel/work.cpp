#include "parallel/work.h"

#include <algorithm>

#include "parallel/taps.h"

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
  const auto h = static_cast<double>(m.hidden_size), q = static_cast<double>(m.num_attention_heads * m.head_size());
  const auto kv = static_cast<double>(m.num_key_value_heads * m.head_size());
  const double scores = 2 * static_cast<double>(sequence_length) * q;
  LayerFlops layer{.attention = of_matrices(2 * h * q + 2 * h * kv),
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

int end_of_pass(int pass, int units, const Layout& layout) {
  if (layout.passes.empty()) return units;
  const PassPlace& place = layout.passes[static_cast<std::size_t>(pass)];
  const auto teaches = [&](const PassPlace& other) { return other.teacher == pass; };
  if (!place.back || std::ranges::any_of(layout.passes, teaches)) return units;
  int end = 0;
  for (int e = 0; e < exit_count(layout); ++e)
    if (place.exits[static_cast<std::size_t>(e)] != ExitRole::absent) end = std::max(end, exit_at(layout, e).tap + 1);
  return end;
}

namespace {

// What one pass costs on every stage, and at every exit.
struct PassWork {
  std::vector<PassFlops> stages, bodies;
  PassFlops output;
};

PassWork pass_work(int pass, const Model& model, const Partition& partition, const Layout& layout, const WorkOptions& options) {
  const auto tokens = static_cast<double>(options.micro_batch_size * options.sequence_length);
  const ModelConfig config = options.passes.empty() ? model.config : narrowed(model.config, options.passes[static_cast<std::size_t>(pass)]);
  const int end = end_of_pass(pass, static_cast<int>(model.units.size()), layout);
  const LayerFlops of_head = layer_flops(config, options.sequence_length);
  LayerFlops layer = of_head;
  if (options.attention_again) layer.attention.input += layer.scores;
  PassWork work;
  for (int s = 0; s < partition.stages(); ++s) {
    const Units units = partition.units(s);
    work.stages.push_back(model.given_taps ? PassFlops{} : tokens * stage_flops({units.begin, std::min(units.end, end)}, layer));
  }
  for (const Head& head : model.heads) work.bodies.push_back(tokens * body_flops(head.spec().head, of_head));
  work.output = tokens * output_flops(config);
  return work;
}

double exit_flops(const Action& exit, const std::vector<PassWork>& passes, const Layout& layout) {
  const PassWork& work = passes[static_cast<std::size_t>(layout.pass_of(exit.microbatch))];
  const PassFlops& body = work.bodies[static_cast<std::size_t>(exit.index)];
  const int teacher = layout.role_of(exit.index, exit.microbatch) == ExitRole::taught ? layout.teacher_of(exit.microbatch) : -1;
  const double taught = teacher < 0 ? 0 : passes[static_cast<std::size_t>(layout.pass_of(teacher))].output.forward;
  return taught + (layout.backward ? body.sum() + work.output.sum() : body.forward + work.output.forward);
}

}  // namespace

Times work_times(const Model& model, const Partition& partition, const Layout& layout, const WorkOptions& options) {
  std::vector<PassWork> passes;
  for (int p = 0; p < layout.pass_count(); ++p) passes.push_back(pass_work(p, model, partition, layout, options));
  const PassFlops part = 1.0 / layout.ranks * passes.front().output;  // a rank's, where the matrix is split
  return [passes, part, layout](const Action& action) {
    const auto stage = static_cast<std::size_t>(action.stage), exit = static_cast<std::size_t>(action.index);
    const PassWork& work = passes[static_cast<std::size_t>(layout.pass_of(action.microbatch < 0 ? 0 : action.microbatch))];
    switch (action.op) {
      case Op::Forward:
      case Op::Recompute:
        return work.stages[stage].forward;
      case Op::Backward:
        return work.stages[stage].input + (layout.split_backward ? 0 : work.stages[stage].weight);
      case Op::WeightGrad:
        return work.stages[stage].weight;
      case Op::Exit:
        return exit_flops(action, passes, layout);
      case Op::Tap:
        return work.bodies[exit].forward;
      case Op::Untap:
        return work.bodies[exit].input + work.bodies[exit].weight;
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
