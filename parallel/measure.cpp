#include "parallel/measure.h"

#include <algorithm>
#include <set>

#include "optim/update.h"
#include "parallel/split_head.h"
#include "parallel/work.h"

namespace offramp {
namespace {

class Measure {
 public:
  explicit Measure(const MeasuredRank& rank)
      : on_(rank),
        may_fall_(rank.options.layer_drop ? static_cast<std::size_t>(rank.options.model.num_hidden_layers) : 0, 0.5f),
        draws_{.on = true, .layer_rates = may_fall_} {
    ctx_.scratch = &scratch_;
    ctx_.meter = &meter_;
    slab_ = slabs_.tensor(rank.activations, rank.options.precision);
  }

  RankMeasure run() {
    for (const Subnet& subnet : on_.evaluated) {
      begin({.subnet = subnet});
      for (const HeldStage& stage : on_.held.stages) evaluation(stage);
    }
    for (const Pass& pass : on_.passes) {
      begin(pass);
      all_.passes.emplace_back();
      for (const HeldStage& stage : on_.held.stages) evaluation(stage), training(stage);
    }
    if (on_.layout.split_heads)
      for (const bool train : {false, true}) split_heads(train);
    const Group pipeline = Group::planned(on_.mesh.at.pipeline, on_.mesh.degrees.pipeline, Wire::pipeline);
    for (const TiedHere& here : on_.held.flat.tied())
      reduce_tie(ctx_, on_.held.flat, on_.held.ties[static_cast<std::size_t>(here.tie)], here, pipeline);
    gradient_squares(ctx_, on_.held.flat, LogicalNames(on_.held.model), on_.mesh.at.tensor, on_.squares);
    all_.scratch = scratch_.peak();
    return all_;
  }

 private:
  // From now on a pass, alone but for who teaches it.
  void begin(const Pass& pass) {
    pass_ = pass;
    layout_ = on_.layout;
    std::vector<Pass> passes{pass};
    if (pass.teaching == Teaching::whole) passes.insert(passes.begin(), Pass{});
    if (pass.teaching == Teaching::frozen) passes.insert(passes.begin(), kTeacherPass);
    layout_.passes = place_passes(passes, on_.held.model, layout_);
    number_ = layout_.pass_count() - 1;
    const auto units = static_cast<int>(on_.held.model.units.size());
    end_ = on_.layout.frozen ? units : end_of_pass(number_, units, layout_);
    const std::int64_t hidden = pass.subnet.hidden_size;
    slab_ = slabs_.tensor({on_.activations[0], hidden > 0 ? hidden : on_.activations[1]}, on_.options.precision);
    tapped_.clear();
    for (std::size_t e = 0; e < layout_.exits.size(); ++e)
      if (role(e) != ExitRole::absent) tapped_.insert(layout_.exits[e].tap);
  }
  ExitRole role(std::size_t exit) const { return layout_.passes[static_cast<std::size_t>(number_)].exits[exit]; }
  int end_of(const HeldStage& held) const { return std::clamp(end_, held.units.begin, held.units.end); }
  Tensor input_of(const HeldStage& held) const { return held.number == 0 ? on_.input.ids : slab_; }

  Stage::Destination destination(const HeldStage& held) const {
    const bool again = on_.layout.recomputes(held.number);  // then all outputs lie in the stash
    const bool sends_on = held.number + 1 < on_.held.partition.stages();
    const bool teaches = pass_.subnet == Subnet{};
    return [this, again, sends_on, teaches, end = held.units.end](int unit) {
      if (unit >= end && !teaches) return Tensor{};
      const bool outlives = tapped_.contains(unit) || (unit + 1 == end && sends_on) || unit >= end;
      return outlives && (!again || unit >= end) ? slab_ : Tensor{};
    };
  }

  Model& model() { return pass_.teaching == Teaching::nobody ? on_.held.teacher->model() : on_.held.model; }
  void forward(const HeldStage& held, Slot& slot) {
    if (!on_.options.given_taps) Stage(model(), held.units).forward(ctx_, input_of(held), destination(held), slot, end_of(held));
  }

  void evaluation(const HeldStage& held) {
    Slot slot(scratch_, Keep::nothing, on_.input.sequences, {}, pass_.subnet);
    forward(held, slot);
    exits(held.units, false);
    meter_ = {};
  }

  void training(const HeldStage& held) {
    PassMeasure& pass = all_.passes.back();
    if (on_.layout.frozen || pass_.teaching == Teaching::nobody) return frozen_pass(held, pass);
    Arena stash(Backing::none, kUnlimited, 1), deferred(Backing::none, kUnlimited, 2);
    Slot slot(stash, on_.keep, on_.input.sequences, draws_, pass_.subnet);
    forward(held, slot);
    pass.forward_flops += meter_.total.flops;
    exits(held.units, true);
    if (on_.layout.split_backward) slot.defer(deferred);
    const double attended = meter_.operations["attention"].flops;
    Stage(on_.held.model, held.units).backward(ctx_, slab_, {}, {held.units.begin, end_of(held)}, slot);
    slot.run_deferred(ctx_, held.units.begin, held.units.end);
    pass.flops += meter_.total.flops - (meter_.operations["attention"].flops - attended);
    all_.stash = std::max(all_.stash, stash.peak());
    all_.deferred = std::max(all_.deferred, deferred.peak());
    meter_ = {};
  }

  // The forward is evaluation's.
  void frozen_pass(const HeldStage& held, PassMeasure& pass) {
    Slot slot(scratch_, Keep::nothing, on_.input.sequences);
    forward(held, slot);
    pass.forward_flops += meter_.total.flops;
    exits(held.units, true);
    pass.flops += meter_.total.flops;
    meter_ = {};
  }

  HeadIn head_input(bool train, ExitRole role = ExitRole::alone) {
    HeadIn in{slab_, on_.input.labels, on_.scale, train ? draws_ : Draws{}};
    in.subnet = pass_.subnet;
    if (pass_.teaching != Teaching::labels) {
      in.target = Target::distribution;
      in.temperature = static_cast<float>(on_.options.temperature);
    }
    Model& teacher = pass_.teaching == Teaching::frozen ? on_.held.teacher->model() : on_.held.model;
    if (role == ExitRole::taught) in.teacher = {slabs_.tensor(on_.activations, on_.options.precision), &teacher.final->output()};
    return in;
  }

  void exits(Units units, bool train) {
    if (on_.layout.split_heads) return;
    for (std::size_t e = 0; e < layout_.exits.size(); ++e) {
      Head& head = on_.held.model.heads[e];
      if (!units.contains(head.tap()) || role(e) == ExitRole::absent) continue;
      const Tensor d_tap = train && !head.spec().detach ? slab_ : Tensor{};
      head.exit(ctx_, d_tap, on_.sums, head_input(train, role(e)), on_.input.sequences, train);
    }
  }

  void split_heads(bool train) {
    meter_ = {};
    for (Head& head : on_.held.model.heads) {
      const bool here = std::ranges::any_of(on_.held.stages, [&](const HeldStage& stage) { return stage.units.contains(head.tap()); });
      Arena stash(Backing::none, kUnlimited, 7);
      probe_split_head(head, {ctx_, stash, slab_, head_input(train), on_.sums, on_.input.sequences, on_.held.ranks, train}, here);
      all_.head_stash = std::max(all_.head_stash, stash.peak());
    }
    if (train) all_.passes.front().flops += meter_.total.flops;
  }

  const MeasuredRank& on_;
  Meter meter_;
  Arena scratch_{Backing::none, kUnlimited, 3}, slabs_{Backing::none, kUnlimited, 4};
  Context ctx_;
  Tensor slab_;  // of the pass that is measured, as all of these:
  Pass pass_;
  Layout layout_;
  int number_ = 0, end_ = 0;  // of its layout's passes; behind its last unit
  std::set<int> tapped_;
  std::vector<float> may_fall_;
  Draws draws_;
  RankMeasure all_;
};

}  // namespace

RankMeasure measure_rank(const MeasuredRank& rank) { return Measure(rank).run(); }

}  // namespace offramp
