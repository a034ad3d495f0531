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

bool has_heads(const Model& model, const Partition& partition, int stage) {
  return std::ranges::any_of(model.heads, [&](const Head& head) { return partition.stage_of(head.tap()) == stage; });
}

namespace {

// Of a final head that exits learn from, what a stage has.
void visit_final(Model& model, const Partition& partition, int stage, const Visitor& visit) {
  if (!model.final) return;
  if (stage == partition.stages() - 1 && !model.given_taps) model.final->visit_below_output(visit);
  if (has_heads(model, partition, stage)) model.final->output().visit(visit);
}

}  // namespace

void visit_with_stage(Model& model, const Partition& partition, const std::function<void(Parameter&, int stage)>& visit) {
  for (int s = 0; s < partition.stages(); ++s) visit_final(model, partition, s, [&](Parameter& p) { visit(p, s); });
  const int parts = model.head_part.parts;
  for (auto& head : model.heads) {
    const int stage = partition.stage_of(head.tap());
    head.visit_below_output([&](Parameter& p) { visit(p, stage); });
    for (int s = parts > 1 ? 0 : stage; s < (parts > 1 ? parts : stage + 1); ++s) head.output().visit([&](Parameter& p) { visit(p, s); });
  }
  for (std::size_t u = 0; u < model.units.size(); ++u) {
    const int stage = partition.stage_of(static_cast<int>(u));
    model.units[u].module->visit([&](Parameter& p) { visit(p, stage); });
  }
}

std::set<std::string> split_outputs(Model& model) {
  std::set<std::string> names;
  for (Head& head : model.heads)
    if (model.head_part.parts > 1) head.output().visit([&](Parameter& p) { names.insert(p.name()); });
  return names;
}

std::vector<Tie> find_ties(Model& model, const Partition& partition) {
  struct Seen {
    std::set<int> stages;
    std::set<std::pair<int, Writer>> sites;
    std::set<Writer> writers;
  };
  std::map<std::string, Seen> seen;
  visit_with_stage(model, partition, [&](Parameter& p, int stage) {
    if (p.frozen) return;  // copies of what never changes stay alike
    Seen& s = seen[p.name()];
    s.stages.insert(stage);
    s.sites.insert({stage, p.writer});
    s.writers.insert(p.writer);
  });
  const std::set<std::string> split = split_outputs(model);
  std::vector<Tie> ties;  // in the order of names: the same on every rank
  for (const auto& [name, s] : seen) {
    const bool parts = split.contains(name);
    if (!parts && s.sites.size() > 1) ties.push_back({name, {s.stages.rbegin(), s.stages.rend()}});
    if (!parts || s.writers.size() == 1) continue;
    for (int part = 0; part < model.head_part.parts; ++part)
      ties.push_back({name, part == 0 ? std::vector{0} : std::vector{part, 0}, part});
  }
  return ties;
}

std::vector<Units> cut_segments(Model& model, Units units, std::int64_t bucket_elements) {
  if (model.frozen) return {units};  // no backward to cut
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

namespace {

// Ties by name; those of a tensor's parts follow each other.
std::map<std::string, std::vector<int>> ties_by_name(const std::vector<Tie>& ties) {
  std::map<std::string, std::vector<int>> numbers;
  for (std::size_t t = 0; t < ties.size(); ++t) numbers[ties[t].name].push_back(static_cast<int>(t));
  return numbers;
}

// The parts of what this rank has of the embedding, which is its own part of the tensor-parallel ranks'.
std::vector<TiedPart> parts_of(const Parameter& whole, const std::vector<int>& ties) {
  const std::int64_t rows = whole.shape[0], width = whole.shape.elements() / rows;
  std::vector<TiedPart> parts;
  const int count = static_cast<int>(ties.size());
  for (int part = 0; part < count; ++part) {
    const VocabularyRange range = vocabulary_part({0, rows}, part, count);
    parts.push_back({ties[static_cast<std::size_t>(part)], {range.first * width, (range.first + range.count) * width}});
  }
  return parts;
}

// Exits that share an output matrix share its number.
void number_matrices(Model& model, Layout& layout) {
  std::map<std::string, int> numbers;
  for (std::size_t e = 0; e < model.heads.size(); ++e)
    model.heads[e].output().visit(
        [&](Parameter& p) { layout.exits[e].matrix = numbers.try_emplace(p.name(), static_cast<int>(numbers.size())).first->second; });
}

class EntryList {
 public:
  EntryList(int stage, const std::vector<Tie>& ties) : stage_(stage), ties_(ties), by_name_(ties_by_name(ties)) {}

  void add(Parameter& p, int segment) {
    const auto it = by_name_.find(p.name());
    if (it == by_name_.end()) return entries_.push_back({.parameter = &p, .segment = segment, .stage = stage_});
    const int last = it->second.back();
    const Tie& tie = ties_[static_cast<std::size_t>(last)];
    FlatEntry entry{.parameter = &p, .segment = segment, .tie = last, .owner = tie.stages.back() == stage_, .stage = stage_};
    if (tie.part >= 0) entry.parts = parts_of(p, it->second);
    entries_.push_back(std::move(entry));
  }
  // This stage's part of an output matrix that is split over the pipeline.
  void add_part(Parameter& p) {
    const auto it = by_name_.find(p.name());
    if (it == by_name_.end()) return entries_.push_back({.parameter = &p, .stage = stage_});
    const int tie = it->second[static_cast<std::size_t>(stage_)];
    const bool beside_whole = stage_ == 0;  // part 0 of what the embedding has
    entries_.push_back({.parameter = &p, .tie = tie, .owner = beside_whole, .within = beside_whole ? 0 : -1, .stage = stage_});
  }
  std::vector<FlatEntry> take() && { return std::move(entries_); }

 private:
  int stage_;
  const std::vector<Tie>& ties_;
  std::map<std::string, std::vector<int>> by_name_;
  std::vector<FlatEntry> entries_;
};

}  // namespace

std::vector<FlatEntry> flat_entries(Model& model, const Partition& partition, int stage, const std::vector<Units>& segments,
                                    const std::vector<Tie>& ties) {
  EntryList entries(stage, ties);
  const auto add = [&](int segment) { return [&, segment](Parameter& p) { entries.add(p, segment); }; };
  const int parts = model.head_part.parts;
  for (auto& head : model.heads) {
    const bool here = partition.stage_of(head.tap()) == stage;
    if (here) head.visit_below_output(add(0));
    if (parts > 1 && stage < parts) head.output().visit([&](Parameter& p) { entries.add_part(p); });
    if (parts == 1 && here) head.output().visit(add(0));
  }
  visit_final(model, partition, stage, add(0));
  if (model.given_taps) return std::move(entries).take();
  for (std::size_t s = 0; s < segments.size(); ++s)
    for (int u = segments[s].end - 1; u >= segments[s].begin; --u)
      model.units[static_cast<std::size_t>(u)].module->visit(add(static_cast<int>(s)));
  return std::move(entries).take();
}

std::size_t last_head(const Subnet& subnet, const Model& model) {
  const std::int64_t depth = subnet.num_hidden_layers;
  if (depth == 0 || depth == model.config.num_hidden_layers) return model.heads.size() - 1;
  const auto at_depth = [&](const Head& head) { return head.spec().layer == depth; };
  const auto head = std::ranges::find_if(model.heads, at_depth);
  OFFRAMP_CHECK(head != model.heads.end(), "[passes] a subnet of {} layers, where no exit is", depth);
  return static_cast<std::size_t>(head - model.heads.begin());
}

namespace {

bool is_whole(const Pass& pass, const ModelConfig& config) { return shortened(pass.subnet, config) == Subnet{}; }

// Exits of the whole learn from its own final head if that is their target; beside a frozen backbone all are measured by it.
std::vector<ExitRole> roles_of_whole(const Pass& pass, const Model& model) {
  std::vector<ExitRole> roles;
  for (const Head& head : model.heads) {
    const bool by_own = model.final && (model.frozen || head.spec().target != Target::labels);
    roles.push_back(by_own || pass.teaching == Teaching::frozen ? ExitRole::taught : ExitRole::alone);
  }
  return roles;
}

PassPlace place_of(const Pass& pass, const Model& model, const Layout& layout) {
  PassPlace place{.back = pass.teaching != Teaching::nobody};
  const bool distills = pass.teaching != Teaching::labels;
  if (!place.back) {
    place.last = layout.stages - 1;
    place.exits.assign(model.heads.size(), ExitRole::absent);
    return place;
  }
  if (is_whole(pass, model.config)) {
    place.exits = roles_of_whole(pass, model);
  } else {
    place.exits.assign(model.heads.size(), ExitRole::absent);
    place.exits[last_head(pass.subnet, model)] = distills ? ExitRole::taught : ExitRole::alone;
  }
  for (std::size_t e = 0; e < place.exits.size(); ++e)
    if (place.exits[e] != ExitRole::absent) place.last = std::max(place.last, layout.exits[e].stage);
  const bool taught = std::ranges::count(place.exits, ExitRole::taught) > 0;
  if (taught && model.final && is_whole(pass, model.config)) place.last = layout.stages - 1;
  return place;
}

// One pass, of which a Layout without passes says as much.
bool is_plain(const std::vector<PassPlace>& passes) {
  return passes.size() == 1 && std::ranges::count(passes.front().exits, ExitRole::alone) == std::ssize(passes.front().exits);
}

}  // namespace

std::vector<PassPlace> place_passes(const std::vector<Pass>& passes, const Model& model, const Layout& layout) {
  std::vector<PassPlace> places;
  for (const Pass& pass : passes) {
    const int number = static_cast<int>(places.size());
    PassPlace place = place_of(pass, model, layout);
    const bool taught = std::ranges::count(place.exits, ExitRole::taught) > 0;
    if (taught) place.teacher = is_whole(pass, model.config) && pass.teaching != Teaching::frozen ? number : 0;
    places.push_back(std::move(place));
  }
  return places;
}

Layout make_layout(Model& model, const Partition& partition, const std::vector<Tie>& ties, const LayoutOptions& options) {
  Layout layout;
  layout.stages = partition.stages();
  layout.ranks = layout.stages / options.stages_per_rank;
  layout.microbatches = options.microbatches;
  layout.backward = options.backward;
  layout.frozen = model.frozen;
  for (const Head& head : model.heads) {
    const int stage = partition.stage_of(head.tap());
    const bool at_output = stage + 1 < layout.stages && head.tap() + 1 == partition.units(stage).end;
    layout.exits.push_back({stage, head.tap(), at_output, !head.spec().detach});
  }
  layout.split_heads = model.head_part.parts > 1;
  number_matrices(model, layout);
  if (const auto places = place_passes(options.passes.empty() ? std::vector{Pass{}} : options.passes, model, layout); !is_plain(places))
    layout.passes = places, layout.microbatches *= layout.pass_count();
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
