#include "parallel/frozen_teacher.h"

#include <algorithm>

namespace offramp {
namespace {

// A stage with heads has all of the final one, though its exits read the matrix alone: whoever owns a tensor has its teacher's, too.
std::vector<FlatEntry> entries_of(Model& teacher, const Model& of, const Partition& partition, const std::vector<HeldStage>& stages) {
  std::vector<FlatEntry> entries;
  for (auto stage = stages.rbegin(); stage != stages.rend(); ++stage) {
    const Visitor add = [&](Parameter& p) { entries.push_back({.parameter = &p, .stage = stage->number}); };
    if (has_heads(of, partition, stage->number)) teacher.final->visit(add);
    for (int u = stage->units.begin; u < stage->units.end; ++u) teacher.units[static_cast<std::size_t>(u)].module->visit(add);
  }
  return entries;
}

std::vector<int> stages_with_heads(const Model& model, const Partition& partition) {
  std::vector<int> stages;
  for (int s = 0; s + 1 < partition.stages(); ++s)
    if (has_heads(model, partition, s)) stages.push_back(s);
  return stages;
}

}  // namespace

FrozenTeacher::FrozenTeacher(Arena& arena, Model& of, const Partition& partition, const std::vector<HeldStage>& stages)
    : model_(build_teacher(of)),
      with_heads_(stages_with_heads(of, partition)),
      flat_(arena, entries_of(model_, of, partition, stages), {.values = of.precision}) {}

const Parameter* FrozenTeacher::find(const std::string& name) const {
  const auto it = std::ranges::find_if(flat_.frozen(), [&](const Parameter* p) { return p->name() == name; });
  return it == flat_.frozen().end() ? nullptr : *it;
}

void FrozenTeacher::take(Context& ctx, const Flat& learners, const Group& pipeline) {
  for (const Parameter* learner : learners.holders())
    if (const Parameter* mine = find(learner->name())) copy(ctx, mine->value, learner->value);
  share_final_head(ctx, pipeline);
  taken_ = true;
}

void FrozenTeacher::share_final_head(Context& ctx, const Group& pipeline) {
  const int last = pipeline.size() - 1, me = pipeline.rank();
  model_.final->visit([&](Parameter& p) {
    for (const int stage : with_heads_) {
      if (me == last) send(ctx, p.value, pipeline, stage, kFinalTag).wait(ctx);
      if (me == stage) receive(ctx, p.value, pipeline, last, kFinalTag).wait(ctx);
    }
  });
}

}  // namespace offramp
