#include "parallel/placement.h"

#include <algorithm>
#include <map>
#include <set>

#include "tensor/check.h"

namespace offramp {
namespace {

std::int64_t matrix_elements(Module& unit) {
  std::int64_t n = 0;
  unit.visit([&](Parameter& p) { n += p.decayed() ? p.shape.elements() : 0; });
  return n;
}

}  // namespace

int Partition::stage_of(int unit) const {
  const auto it = std::upper_bound(first_unit.begin(), first_unit.end(), unit);
  return static_cast<int>(it - first_unit.begin()) - 1;
}

Partition even_partition(int layers, int stages) {
  OFFRAMP_CHECK(stages >= 1 && stages <= layers, "[even_partition] {} layers over {} stages", layers, stages);
  Partition partition;
  int layer = 0;
  for (int s = 0; s < stages; ++s) {
    partition.first_unit.push_back(s == 0 ? 0 : 1 + 2 * layer);
    layer += layers / stages + (s < layers % stages ? 1 : 0);
  }
  partition.first_unit.push_back(1 + 2 * layers);
  return partition;
}

void visit_with_stage(Model& model, const Partition& partition, const std::function<void(Parameter&, int stage)>& visit) {
  for (auto& head : model.heads) {
    const int stage = partition.stage_of(head.tap());
    head.visit([&](Parameter& p) { visit(p, stage); });
  }
  for (std::size_t u = 0; u < model.units.size(); ++u) {
    const int stage = partition.stage_of(static_cast<int>(u));
    model.units[u].module->visit([&](Parameter& p) { visit(p, stage); });
  }
}

std::vector<Tie> find_ties(Model& model, const Partition& partition) {
  struct Seen {
    std::set<int> stages;
    std::set<std::pair<int, Writer>> sites;
    std::int64_t elements = 0;
  };
  std::map<std::string, Seen> seen;
  visit_with_stage(model, partition, [&](Parameter& p, int stage) {
    Seen& s = seen[p.name()];
    s.stages.insert(stage);
    s.sites.insert({stage, p.writer});
    s.elements = p.shape.elements();
  });
  std::vector<Tie> ties;  // in the order of names: the same on every rank
  for (const auto& [name, s] : seen)
    if (s.sites.size() > 1) ties.push_back({name, s.elements, {s.stages.rbegin(), s.stages.rend()}});
  return ties;
}

std::vector<Units> cut_segments(Model& model, Units units, std::int64_t bucket_elements) {
  std::vector<Units> segments;
  std::int64_t gathered = 0;
  int end = units.end;
  for (int u = units.end - 1; u >= units.begin; --u) {
    gathered += matrix_elements(*model.units[static_cast<std::size_t>(u)].module);
    if (gathered < bucket_elements && u > units.begin) continue;
    segments.push_back({u, end});
    end = u;
    gathered = 0;
  }
  return segments;
}

std::vector<FlatEntry> flat_entries(Model& model, const Partition& partition, int stage, const std::vector<Units>& segments,
                                    const std::vector<Tie>& ties) {
  std::map<std::string, int> tie_of;
  for (std::size_t t = 0; t < ties.size(); ++t) tie_of[ties[t].name] = static_cast<int>(t);
  std::vector<FlatEntry> entries;
  const auto add = [&](int segment) {
    return [&, segment](Parameter& p) {
      const auto it = tie_of.find(p.name());
      const int tie = it == tie_of.end() ? -1 : it->second;
      entries.push_back({&p, segment, tie, tie < 0 || ties[static_cast<std::size_t>(tie)].stages.back() == stage});
    };
  };
  for (auto& head : model.heads)
    if (partition.stage_of(head.tap()) == stage) head.visit(add(0));
  for (std::size_t s = 0; s < segments.size(); ++s)
    for (int u = segments[s].end - 1; u >= segments[s].begin; --u)
      model.units[static_cast<std::size_t>(u)].module->visit(add(static_cast<int>(s)));
  return entries;
}

Layout make_layout(Model& model, const Partition& partition, const std::vector<Tie>& ties, const LayoutOptions& options) {
  Layout layout;
  layout.ranks = layout.stages = partition.stages();
  layout.microbatches = options.microbatches;
  layout.backward = options.backward;
  for (const Head& head : model.heads) {
    const int stage = partition.stage_of(head.tap());
    const bool at_output = stage + 1 < layout.stages && head.tap() + 1 == partition.units(stage).end;
    layout.exits.push_back({stage, head.tap(), at_output, !head.spec().detach});
  }
  if (!options.backward) return layout;
  for (const Tie& tie : ties) layout.ties.push_back(tie.stages);
  if (!options.reduce) return layout;
  for (int s = 0; s < layout.stages; ++s) {
    const auto segments = cut_segments(model, partition.units(s), options.bucket_elements);
    layout.segments.push_back(static_cast<int>(segments.size()));
    auto& buckets = layout.buckets.emplace_back();
    for (const Bucket& b : plan_buckets(flat_entries(model, partition, s, segments, ties))) buckets.push_back({b.segment, b.tie});
  }
  return layout;
}

}  // namespace offramp
