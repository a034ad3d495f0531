// What every kind of action computes and sends, of what was measured, and how long that takes.
#include <algorithm>

#include "parallel/actions.h"
#include "parallel/cost.h"
#include "parallel/work.h"

namespace offramp {
namespace {

// Whether an action of a split head runs on the rank on whose stage the exit stands.
bool stands_on(const Action& action, const Layout& layout) {
  return action.stage == layout.rank_of(layout.exits[static_cast<std::size_t>(action.index)].stage);
}

Counted copies_of(Metered message, double copies) {
  message.sent *= copies;
  return {{message}};
}

// Once for each microbatch, whatever is made again.
bool makes_final(const Action& action, const Layout& layout) { return action.op == Op::Forward && action.stage == layout.stages - 1; }

}  // namespace

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

Units units_of(const Action& action, const Partition& partition, const Layout& layout) {
  const Units units = partition.units(action.stage);
  const int end = end_of_pass(layout.pass_of(action.microbatch), partition.first_unit.back(), layout);
  return {units.begin, std::clamp(end, units.begin, units.end)};
}

Counted work_of(const Action& action, std::span<const ModelWork> passes, const Partition& partition, const Layout& layout) {
  const ModelWork& work = passes[static_cast<std::size_t>(layout.pass_of(std::max<int>(action.microbatch, 0)))];
  switch (action.op) {
    case Op::Forward:
    case Op::Recompute: {
      Counted forward = stage_work(work, units_of(action, partition, layout)).forward;
      if (makes_final(action, layout)) forward += work.final;
      return forward;
    }
    case Op::Backward: {
      if (action.index > 0) return {};  // the first segment stands for all
      StageWork stage = stage_work(work, units_of(action, partition, layout));
      if (!layout.split_backward) stage.backward += stage.weight;
      return stage.backward;
    }
    case Op::WeightGrad:
      if (action.index > 0) return {};
      return stage_work(work, units_of(action, partition, layout)).weight;
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

namespace {

using Triple = std::array<double, 3>;

double sum(const Triple& t) { return t[0] + t[1] + t[2]; }

// Of one pass, stage by stage and exit by exit.
struct PassTimes {
  std::vector<Triple> stages;                // F, B without weight gradients, W
  double final = 0;                          // of the last stage's F besides
  std::vector<std::array<double, 5>> exits;  // T, S, G, H, U; the middle three of a rank's part
  std::vector<double> whole_exits;
  double message = 0, shared_tap = 0, shared_scores = 0;
};
struct TimeTable {
  std::vector<PassTimes> passes;
  std::vector<std::vector<double>> buckets, ties;  // stage by stage
};

// The units that each pass runs of each stage.
std::vector<Units> stages_of(std::size_t pass, const Costs& costs, const Layout& layout) {
  std::vector<Units> stages;
  for (int s = 0; s < layout.stages; ++s)
    stages.push_back(units_of(make_action(Op::Forward, s, static_cast<int>(pass)), *costs.partition, layout));
  return stages;
}

PassTimes given_times(const GivenTimes& times, std::size_t pass, const Costs& costs, const Layout& layout) {
  const ModelWork& work = costs.passes[pass];
  PassTimes table;
  for (const Units& units : stages_of(pass, costs, layout)) {
    const bool embeds = units.begin == 0 && units.end > 0;
    const double layers = work.layer_share * (units.end - units.begin - (embeds ? 1 : 0)) / 2;
    Triple& stage = table.stages.emplace_back();
    for (std::size_t k = 0; k < 3; ++k) stage[k] = layers * times.layer[k] + (embeds ? work.width_share * times.embedding[k] : 0);
  }
  const double part = 1.0 / layout.ranks;
  table.exits.assign(layout.exits.size(), {0, times.head[0] * part, times.head[1] * part, times.head[2] * part, 0});
  for (const ExitWork& exit : work.exits)
    table.whole_exits.push_back(work.width_share * sum(times.head) + (exit.taught ? times.head[0] : 0));
  table.message = table.shared_tap = table.shared_scores = work.width_share * times.message;
  return table;
}

// Seconds of what was counted.
using Seconds = std::function<double(const Counted&)>;

Triple stage_seconds(const ModelWork& work, Units units, const Seconds& seconds) {
  Triple stage{};
  const std::array<const UnitWork*, 3> kinds = {&work.embedding, &work.attention, &work.mlp};
  std::array<int, 3> count{};
  for (int u = units.begin; u < units.end; ++u) ++count[u == 0 ? 0 : u % 2 == 1 ? 1 : 2];
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    if (count[kind] == 0) continue;
    const UnitWork& unit = *kinds[kind];
    const Triple one{seconds(unit.forward), seconds(unit.backward), seconds(unit.weight)};
    for (std::size_t k = 0; k < 3; ++k) stage[k] += count[kind] * one[k];
  }
  return stage;
}

PassTimes planned_times(std::size_t pass, const Costs& costs, const Layout& layout, const Seconds& seconds) {
  const ModelWork& work = costs.passes[pass];
  PassTimes table;
  for (const Units& units : stages_of(pass, costs, layout)) table.stages.push_back(stage_seconds(work, units, seconds));
  table.final = seconds(work.final);
  for (const ExitWork& exit : work.exits) {
    std::ranges::transform(exit.parts, table.exits.emplace_back().begin(), seconds);
    table.whole_exits.push_back(seconds(exit.whole));
  }
  table.message = seconds(copies_of(work.message, 1));
  table.shared_tap = seconds(copies_of(work.message, layout.ranks - 1));
  table.shared_scores = seconds(copies_of(work.statistics, layout.ranks - 1));
  return table;
}

TimeTable time_table(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster) {
  const Seconds seconds = [&](const Counted& work) { return seconds_of(work.calls, setting, cluster); };
  TimeTable table;
  for (std::size_t p = 0; p < costs.passes.size(); ++p)
    table.passes.push_back(cluster.times ? given_times(*cluster.times, p, costs, layout) : planned_times(p, costs, layout, seconds));
  if (cluster.times) return table;
  for (const StageEnd& end : costs.ends) {
    std::ranges::transform(end.buckets, std::back_inserter(table.buckets.emplace_back()), seconds);
    std::ranges::transform(end.ties, std::back_inserter(table.ties.emplace_back()), seconds);
  }
  return table;
}

double look_up(const std::vector<std::vector<double>>& table, const Action& action) {
  const auto stage = static_cast<std::size_t>(action.stage), index = static_cast<std::size_t>(action.index);
  return stage < table.size() && index < table[stage].size() ? table[stage][index] : 0;
}

// Segments count as equally long: their sum is what matters.
double share_of(const Action& action, const Layout& layout) { return action.index < 0 ? 1.0 : 1.0 / layout.segments_of(action.stage); }

double time_of(const Action& action, const PassTimes& pass, const Layout& layout) {
  const auto stage = static_cast<std::size_t>(action.stage), index = static_cast<std::size_t>(action.index);
  switch (action.op) {
    case Op::Forward:
      return pass.stages[stage][0] + (action.stage == layout.stages - 1 ? pass.final : 0);
    case Op::Recompute:
      return pass.stages[stage][0];
    case Op::Backward:
      return (pass.stages[stage][1] + (layout.split_backward ? 0 : pass.stages[stage][2])) * share_of(action, layout);
    case Op::WeightGrad:
      return pass.stages[stage][2] * share_of(action, layout);
    case Op::Exit:
      return pass.whole_exits[index];
    case Op::Tap:
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
    case Op::Untap:
      return pass.exits[index][static_cast<std::size_t>(action.op) - static_cast<std::size_t>(Op::Tap)];
    case Op::SendActivation:
    case Op::SendGradient:
    case Op::SumShares:
      return pass.message;
    case Op::ShareFinal:
      return pass.message * static_cast<double>(partners_of(action, layout).size());
    case Op::ShareTap:
      return pass.shared_tap;
    case Op::ShareScores:
      return pass.shared_scores;
    default:
      return 0;
  }
}

}  // namespace

Times times_of(const Costs& costs, const Layout& layout, const Setting& setting, const Cluster& cluster) {
  return [table = time_table(costs, layout, setting, cluster), layout](const Action& action) {
    if (action.op == Op::ReduceTied) return look_up(table.ties, action);
    if (action.op == Op::ReduceGradients) return look_up(table.buckets, action);
    return time_of(action, table.passes[static_cast<std::size_t>(layout.pass_of(action.microbatch))], layout);
  };
}

}  // namespace offramp
