#include "parallel/work.h"

namespace offramp {
namespace {

// Of the matrices that x passes: two for each element of each. Lookups cost none. Of whole matrices, whatever part a rank has: tensor
// ranks must make the same schedule of it, and their parts of a vocabulary differ.
double matrix_flops(const std::function<void(const Visitor&)>& visit) {
  double elements = 0;
  visit([&](Parameter& p) {
    if (!p.decayed()) return;
    for (const Piece& piece : p.pieces) elements += static_cast<double>(piece.global.elements());
  });
  return 2 * elements;
}

// Scores and their sums over values, of half of the keys on average.
double attention_flops(const Model& model, std::int64_t sequence_length) {
  const double heads = static_cast<double>(model.config.num_attention_heads * model.config.head_size());
  return 2 * heads * static_cast<double>(sequence_length);
}

bool is_attention(int unit) { return unit % 2 == 1; }

}  // namespace

double unit_flops(Model& model, int unit, std::int64_t sequence_length) {
  if (unit == 0) return 0;
  const double products = matrix_flops([&](const Visitor& visitor) { model.units[static_cast<std::size_t>(unit)].module->visit(visitor); });
  return products + (is_attention(unit) ? attention_flops(model, sequence_length) : 0);
}

double head_flops(Model& model, Head& head, std::int64_t sequence_length) {
  const HeadKind kind = head.spec().head;
  const bool attends = kind == HeadKind::block || kind == HeadKind::attention;
  return matrix_flops([&](const Visitor& visitor) { head.visit(visitor); }) + (attends ? attention_flops(model, sequence_length) : 0);
}

double output_flops(Head& head) {
  return matrix_flops([&](const Visitor& visitor) { head.output().visit(visitor); });
}

Times work_times(Model& model, const Partition& partition, const Layout& layout, std::int64_t micro_batch_size,
                 std::int64_t sequence_length) {
  const double tokens = static_cast<double>(micro_batch_size * sequence_length);
  std::vector<double> stages, heads, parts;  // parts: a rank's share of an output matrix
  for (int s = 0; s < partition.stages(); ++s) {
    double flops = 0;
    for (int u = partition.units(s).begin; u < partition.units(s).end; ++u) flops += unit_flops(model, u, sequence_length);
    stages.push_back(tokens * flops);
  }
  for (Head& head : model.heads) {
    heads.push_back(tokens * head_flops(model, head, sequence_length));
    parts.push_back(tokens * output_flops(head) / layout.ranks);
  }
  const int ranks = layout.ranks;
  const bool split = layout.split_backward, train = layout.backward;
  return [=](const Action& action) {
    switch (action.op) {
      case Op::Forward:
      case Op::Recompute:
      case Op::WeightGrad:
        return stages[static_cast<std::size_t>(action.stage)];
      case Op::Backward:
        return stages[static_cast<std::size_t>(action.stage)] * (split ? 1 : 2);
      case Op::Exit:
        return heads[static_cast<std::size_t>(action.index)] * (train ? 3 : 1);
      case Op::Scores:
      case Op::HeadBackward:
      case Op::HeadWeightGrad:
        return parts[static_cast<std::size_t>(action.index)];
      case Op::Tap:
      case Op::Untap:
        return (heads[static_cast<std::size_t>(action.index)] - ranks * parts[static_cast<std::size_t>(action.index)]) *
               (action.op == Op::Tap ? 1 : 2);
      default:
        return 0.0;
    }
  };
}

}  // namespace offramp
