#include "parallel/cost.h"

#include <algorithm>
#include <numeric>

#include "optim/update.h"
#include "parallel/actions.h"
#include "parallel/split_head.h"
#include "parallel/step_schedule.h"
#include "parallel/ties.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// A context that counts, over memory that does not exist.
struct Planning {
  Meter meter;
  Arena scratch{Backing::none, kUnlimited, 1}, memory{Backing::none, kUnlimited, 2};
  Arena stash{Backing::none, kUnlimited, 3}, deferred{Backing::none, kUnlimited, 4};
  std::vector<Metered> calls;
  Context ctx;

  Planning() {
    meter.each = &calls;
    ctx.scratch = &scratch;
    ctx.meter = &meter;
  }
  // What came since the last time.
  Counted taken() { return {std::exchange(calls, {})}; }
};

bool is_weight_gradient(const Metered& call) { return std::string_view(call.name) == "linear_backward_weight"; }

void split_backward(const Counted& all, UnitWork& unit) {
  for (const Metered& call : all.calls) (is_weight_gradient(call) ? unit.weight : unit.backward).calls.push_back(call);
}

// One microbatch of a whole model that lies on one pipeline rank.
class Measurement {
 public:
  Measurement(const MachineOptions& options, const Degrees& degrees)
      : options_(options),
        mesh_(Mesh::planned(0, {.tensor = degrees.tensor, .pipeline = 1, .data = 1})),
        parts_(options.split_heads ? degrees.pipeline : 1),
        model_(build_model(options.model, options.exits, model_options(options, mesh_.tensor, {.part = 0, .parts = parts_}))),
        flat_(plan_.memory, entries(), {.values = options.precision}) {
    model_.prepare(plan_.ctx, plan_.memory);
    const std::int64_t tokens = options.micro_batch_size * options.sequence_length;
    ids_ = plan_.memory.tensor({tokens}, DType::i32);
    sequences_.length = options.sequence_length;
    if (options.document_mask) sequences_.positions = sequences_.first_key = ids_;
    slab_ = plan_.memory.tensor({model_.tensor.rows(tokens), options.model.hidden_size}, options.precision);
    plan_.calls.clear();
  }

  ModelWork run() {
    ModelWork work;
    if (!model_.given_taps) units(work);
    for (Head& head : model_.heads) work.exits.push_back(exit(head));
    const auto bytes = static_cast<double>(slab_.bytes());
    work.message = {.name = "send", .cost = {}, .ranks = 2, .wire = name_of(Wire::pipeline), .sent = bytes};
    work.statistics = work.message;
    work.statistics.sent = static_cast<double>(statistics_bytes(ids_.elements(), 1));
    return work;
  }

 private:
  void units(ModelWork& work) {
    work.embedding = unit(0);
    work.attention = unit(1);
    if (model_.units.size() > 2) work.mlp = unit(2);  // a frozen backbone may end before
  }

  UnitWork unit(std::size_t number) {
    Module& module = *model_.units[number].module;
    UnitWork work;
    const Keep kept = options_.recompute == "selective" ? Keep::all_but_attention : Keep::everything;
    Slot slot(plan_.stash, model_.frozen ? Keep::nothing : kept, sequences_, model_.frozen ? Draws{} : draws_);
    module.forward(plan_.ctx, slab_, number == 0 ? ids_ : slab_, slot);
    work.forward = plan_.taken();
    if (model_.frozen) return work;
    if (splits_backward(options_)) slot.defer(plan_.deferred);
    module.backward(plan_.ctx, number == 0 ? Tensor{} : slab_, slab_, slot);
    split_backward(plan_.taken(), work);
    slot.run_deferred(plan_.ctx, 0, 1);  // with what it gathers first
    work.weight += plan_.taken();
    return work;
  }

  ExitWork exit(Head& head) {
    const Tensor scale = plan_.memory.tensor({1}, DType::f32), sums = plan_.memory.tensor({kLossSums}, DType::f64);
    HeadIn in{slab_, ids_, scale, draws_};
    if (model_.final) in.teacher = {slab_, &model_.final->output()};
    ExitWork work;
    if (parts_ == 1) {
      head.exit(plan_.ctx, head.spec().detach ? Tensor{} : slab_, sums, in, sequences_, true);
      work.whole = plan_.taken();
      return work;
    }
    probe_split_head(head, {plan_.ctx, plan_.stash, slab_, in, sums, sequences_, parts_}, true,
                     [&](Op op) { work.of(op) = plan_.taken(); });
    return work;
  }

  // One stage has all units, and of output matrices the first part.
  std::vector<FlatEntry> entries() {
    const Partition one{{0, static_cast<int>(model_.units.size())}};
    return flat_entries(model_, one, 0, {one.units(0)}, find_ties(model_, one));
  }

  MachineOptions options_;
  Planning plan_;
  Mesh mesh_;
  int parts_;
  Model model_;
  Flat flat_;
  Tensor ids_, slab_;
  Sequences sequences_;
  Draws draws_{.on = true};
};

// Segments count as equally long: their sum is what matters.
double share_of(const Action& action, const Layout& layout) { return action.index < 0 ? 1.0 : 1.0 / layout.segments_of(action.stage); }

// Whether an action of a split head runs on the rank on whose stage the exit stands.
bool stands_on(const Action& action, const Layout& layout) {
  return action.stage == layout.rank_of(layout.exits[static_cast<std::size_t>(action.index)].stage);
}

Counted copies_of(Metered message, double copies) {
  message.sent *= copies;
  return {{message}};
}

}  // namespace

Counted& Counted::operator+=(const Counted& other) {
  calls.insert(calls.end(), other.calls.begin(), other.calls.end());
  return *this;
}
double Counted::flops() const {
  return std::accumulate(calls.begin(), calls.end(), 0.0, [](double sum, const Metered& c) { return sum + c.cost.flops; });
}
double Counted::sent(std::string_view wire) const {
  return std::accumulate(calls.begin(), calls.end(), 0.0,
                         [&](double sum, const Metered& c) { return sum + (c.wire == wire ? c.sent : 0); });
}

Counted& ExitWork::of(Op op) {
  OFFRAMP_CHECK(op >= Op::Tap && op <= Op::Untap, "[cost] {} is no part of a split head", static_cast<int>(op));
  return parts[static_cast<std::size_t>(op) - static_cast<std::size_t>(Op::Tap)];
}

ModelWork measure_work(const MachineOptions& options, const Degrees& degrees) { return Measurement(options, degrees).run(); }

StageWork stage_work(const ModelWork& work, Units units) {
  StageWork stage;
  for (int u = units.begin; u < units.end; ++u) {
    const UnitWork& unit = u == 0 ? work.embedding : u % 2 == 1 ? work.attention : work.mlp;
    stage.forward += unit.forward;
    stage.backward += unit.backward;
    stage.weight += unit.weight;
  }
  return stage;
}

Counted work_of(const Action& action, const ModelWork& work, const Partition& partition, const Layout& layout) {
  switch (action.op) {
    case Op::Forward:
    case Op::Recompute:
      return stage_work(work, partition.units(action.stage)).forward;
    case Op::Backward: {
      if (action.index > 0) return {};  // the first segment stands for all
      StageWork stage = stage_work(work, partition.units(action.stage));
      if (!layout.split_backward) stage.backward += stage.weight;
      return stage.backward;
    }
    case Op::WeightGrad:
      if (action.index > 0) return {};
      return stage_work(work, partition.units(action.stage)).weight;
    case Op::Exit:
      return work.exits[static_cast<std::size_t>(action.index)].whole;
    case Op::Tap:
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
    case Op::Untap:
      return work.exits[static_cast<std::size_t>(action.index)].of(action.op);
    case Op::SendActivation:
    case Op::SendGradient:
      return copies_of(work.message, 1);
    case Op::ShareFinal:
      return copies_of(work.message, static_cast<double>(partners_of(action, layout).size()));
    case Op::ShareTap:
      return copies_of(work.message, stands_on(action, layout) ? layout.ranks - 1 : 0);
    case Op::ShareScores:
      return copies_of(work.statistics, layout.ranks - 1);
    case Op::SumShares:
      return copies_of(work.message, stands_on(action, layout) ? 0 : 1);
    default:
      return {};
  }
}

RankEnd measure_end(const MachineOptions& options, const Degrees& degrees, Holdings& held, const OptimizerConfig& optimizer) {
  Planning plan;
  RankEnd end;
  for (const HeldStage& stage : held.stages) end.stages.push_back({stage.number, {}, std::vector<Counted>(held.ties.size())});
  const auto of_stage = [&](int stage) -> StageEnd& { return end.stages[static_cast<std::size_t>(stage / held.ranks)]; };
  const Flat& flat = held.flat;
  const Group tensor = Group::planned(0, degrees.tensor, Wire::tensor), data = Group::planned(0, degrees.data, Wire::data);
  const Group pipeline = Group::planned(held.rank, degrees.pipeline, Wire::pipeline);
  const bool reduces = held.reduces();
  for (const Bucket& bucket : flat.buckets()) {
    const Tensor all = flat.gradients(bucket.range);
    if (reduces && bucket.replicated && options.sequence_parallel) all_reduce(plan.ctx, all, tensor).wait(plan.ctx);
    (flat.shards_state() ? reduce_scatter(plan.ctx, flat.gradients(flat.shard(bucket)), all, data) : all_reduce(plan.ctx, all, data))
        .wait(plan.ctx);
    of_stage(bucket.stage).buckets.push_back(plan.taken());
  }
  for (const TiedHere& here : flat.tied()) {
    reduce_tie(plan.ctx, flat, held.ties[static_cast<std::size_t>(here.tie)], here, pipeline);
    of_stage(here.stage).ties[static_cast<std::size_t>(here.tie)] = plan.taken();
  }
  fill_zero(plan.ctx, flat.all_gradients());
  const LogicalNames names(held.model);
  gradient_squares(plan.ctx, flat, names, 0, plan.memory.tensor({names.size()}, DType::f64));
  apply_update(plan.ctx, flat, optimizer, plan.memory.tensor({names.clip_groups(), 4}, DType::f32));
  if (flat.shards_state())
    for (const Bucket& bucket : flat.buckets())
      all_gather(plan.ctx, flat.values(bucket.range), flat.values(flat.shard(bucket)), data).wait(plan.ctx);
  for (const TiedHere& here : flat.tied()) share_value(plan.ctx, here, held.ties[static_cast<std::size_t>(here.tie)], pipeline);
  end.update = plan.taken();
  return end;
}

namespace {

using Triple = std::array<double, 3>;

double sum(const Triple& t) { return t[0] + t[1] + t[2]; }

// Seconds of every kind of action, stage by stage.
struct TimeTable {
  std::vector<Triple> stages;                // F, B without weight gradients, W
  std::vector<std::array<double, 5>> exits;  // T, S, G, H, U; the middle three of a rank's part
  std::vector<double> whole_exits;
  std::vector<std::vector<double>> buckets, ties;
  double message = 0, shared_tap = 0, shared_scores = 0;
};

int layers_of(Units units) { return (units.end - units.begin) / 2; }

TimeTable given_times(const GivenTimes& times, const Costs& costs, const Layout& layout) {
  TimeTable table;
  for (int s = 0; s < layout.stages; ++s) {
    const Units units = costs.partition->units(s);
    Triple stage;
    for (std::size_t k = 0; k < 3; ++k) stage[k] = layers_of(units) * times.layer[k] + (units.begin == 0 ? times.embedding[k] : 0);
    table.stages.push_back(stage);
  }
  const double part = 1.0 / layout.ranks;
  table.exits.assign(layout.exits.size(), {0, times.head[0] * part, times.head[1] * part, times.head[2] * part, 0});
  table.whole_exits.assign(layout.exits.size(), sum(times.head));
  table.message = table.shared_tap = table.shared_scores = times.message;
  return table;
}

TimeTable planned_times(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster) {
  TimeTable table;
  const auto seconds = [&](const Counted& work) { return seconds_of(work.calls, setting, cluster); };
  const auto unit_times = [&](const UnitWork& unit) { return Triple{seconds(unit.forward), seconds(unit.backward), seconds(unit.weight)}; };
  const ModelWork& work = *costs.work;
  const std::array<Triple, 3> units = {unit_times(work.embedding), unit_times(work.attention), unit_times(work.mlp)};
  for (int s = 0; s < layout.stages; ++s) {
    const Units of_stage = costs.partition->units(s);
    Triple stage{};
    for (std::size_t k = 0; k < 3; ++k)
      stage[k] = layers_of(of_stage) * (units[1][k] + units[2][k]) + (of_stage.begin == 0 ? units[0][k] : 0);
    table.stages.push_back(stage);
  }
  for (const ExitWork& exit : work.exits) {
    auto& parts = table.exits.emplace_back();
    std::ranges::transform(exit.parts, parts.begin(), seconds);
    table.whole_exits.push_back(seconds(exit.whole));
  }
  for (const StageEnd& end : costs.ends) {
    for (auto [works, times] : {std::pair(&end.buckets, &table.buckets), {&end.ties, &table.ties}}) {
      times->emplace_back();
      for (const Counted& one : *works) times->back().push_back(seconds(one));
    }
  }
  table.message = seconds(copies_of(work.message, 1));
  table.shared_tap = seconds(copies_of(work.message, layout.ranks - 1));
  table.shared_scores = seconds(copies_of(work.statistics, layout.ranks - 1));
  return table;
}

double look_up(const std::vector<std::vector<double>>& table, const Action& action) {
  const auto stage = static_cast<std::size_t>(action.stage), index = static_cast<std::size_t>(action.index);
  return stage < table.size() && index < table[stage].size() ? table[stage][index] : 0;
}

double time_of(const Action& action, const TimeTable& table, const Layout& layout) {
  const auto stage = static_cast<std::size_t>(action.stage), index = static_cast<std::size_t>(action.index);
  switch (action.op) {
    case Op::Forward:
    case Op::Recompute:
      return table.stages[stage][0];
    case Op::Backward:
      return (table.stages[stage][1] + (layout.split_backward ? 0 : table.stages[stage][2])) * share_of(action, layout);
    case Op::WeightGrad:
      return table.stages[stage][2] * share_of(action, layout);
    case Op::Exit:
      return table.whole_exits[index];
    case Op::Tap:
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
    case Op::Untap:
      return table.exits[index][static_cast<std::size_t>(action.op) - static_cast<std::size_t>(Op::Tap)];
    case Op::SendActivation:
    case Op::SendGradient:
    case Op::SumShares:
      return table.message;
    case Op::ShareFinal:
      return table.message * static_cast<double>(partners_of(action, layout).size());
    case Op::ShareTap:
      return table.shared_tap;
    case Op::ShareScores:
      return table.shared_scores;
    case Op::ReduceTied:
      return look_up(table.ties, action);
    case Op::ReduceGradients:
      return look_up(table.buckets, action);
    default:
      return 0;
  }
}

}  // namespace

Times times_of(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster) {
  const TimeTable table = cluster.times ? given_times(*cluster.times, costs, layout) : planned_times(costs, layout, setting, cluster);
  return [table, layout](const Action& action) { return time_of(action, table, layout); };
}

}  // namespace offramp
