#include "parallel/measure.h"

#include <algorithm>
#include <set>

#include "optim/update.h"
#include "parallel/split_head.h"

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
    for (const Head& head : rank.held.model.heads) tapped_.insert(head.tap());
  }

  RankMeasure run() {
    for (const HeldStage& stage : on_.held.stages) pass(stage);
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
  // Evaluation, then training.
  void pass(const HeldStage& held) {
    const Stage stage(on_.held.model, held.units);
    const Tensor x = held.number == 0 ? on_.input.ids : slab_;
    const int last = held.units.end - 1;
    const bool again = on_.layout.recomputes(held.number);  // then all outputs lie in the stash
    const bool sends_on = held.number + 1 < on_.held.partition.stages();
    const auto outlives = [&](int unit) { return tapped_.contains(unit) || (unit == last && sends_on) || unit > last; };
    const auto destination = [&](int unit) { return !again && outlives(unit) ? slab_ : Tensor{}; };
    Slot evaluation(scratch_, Keep::nothing, on_.input.sequences);
    if (!on_.options.given_taps) stage.forward(ctx_, x, destination, evaluation);
    exits(held.units, false);
    meter_ = {};
    if (on_.layout.frozen) return frozen_pass(held, x, destination);
    Arena stash(Backing::none, kUnlimited, 1), deferred(Backing::none, kUnlimited, 2);
    Slot slot(stash, on_.keep, on_.input.sequences, draws_);
    stage.forward(ctx_, x, destination, slot);
    all_.forward_flops += meter_.total.flops;
    exits(held.units, true);
    if (on_.layout.split_backward) slot.defer(deferred);
    const double attended = meter_.operations["attention"].flops;
    stage.backward(ctx_, slab_, {}, held.units, slot);
    slot.run_deferred(ctx_, held.units.begin, held.units.end);
    all_.flops += meter_.total.flops - (meter_.operations["attention"].flops - attended);
    all_.stash = std::max(all_.stash, stash.peak());
    all_.deferred = std::max(all_.deferred, deferred.peak());
  }

  // The forward is evaluation's.
  void frozen_pass(const HeldStage& held, Tensor x, const Stage::Destination& destination) {
    Slot slot(scratch_, Keep::nothing, on_.input.sequences);
    if (!on_.options.given_taps) Stage(on_.held.model, held.units).forward(ctx_, x, destination, slot);
    all_.forward_flops += meter_.total.flops;
    exits(held.units, true);
    all_.flops += meter_.total.flops;
  }

  HeadIn head_input(bool train) const {
    HeadIn in{slab_, on_.input.labels, on_.scale, train ? draws_ : Draws{}};
    if (on_.held.model.final) in.teacher = {slab_, &on_.held.model.final->output()};
    return in;
  }

  void exits(Units units, bool train) {
    if (on_.layout.split_heads) return;
    for (Head& head : on_.held.model.heads) {
      if (!units.contains(head.tap())) continue;
      const Tensor d_tap = train && !head.spec().detach ? slab_ : Tensor{};
      head.exit(ctx_, d_tap, on_.sums, head_input(train), on_.input.sequences, train);
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
    if (train) all_.flops += meter_.total.flops;
  }

  const MeasuredRank& on_;
  Meter meter_;
  Arena scratch_{Backing::none, kUnlimited, 3}, slabs_{Backing::none, kUnlimited, 4};
  Context ctx_;
  Tensor slab_;
  std::vector<float> may_fall_;
  Draws draws_;
  std::set<int> tapped_;
  RankMeasure all_;
};

}  // namespace

RankMeasure measure_rank(const MeasuredRank& rank) { return Measure(rank).run(); }

}  // namespace offramp
