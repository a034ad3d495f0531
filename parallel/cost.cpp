#include "parallel/cost.h"

#include <algorithm>
#include <numeric>

#include "optim/update.h"
#include "parallel/split_head.h"
#include "parallel/step_schedule.h"
#include "parallel/ties.h"
#include "parallel/work.h"
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

// A frozen teacher computes as the model's own final head would: the measured model has that.
ModelOptions measured_options(const MachineOptions& options, const Group& tensor, const PipelinePart& heads) {
  ModelOptions measured = model_options(options, tensor, heads);
  measured.teaches = measured.teaches || has_frozen_teacher(options);
  return measured;
}

double flops_of_layer(const ModelConfig& model, const MachineOptions& options) {
  const LayerFlops layer = layer_flops(model, options.sequence_length);
  return layer.attention.sum() + layer.mlp.sum();
}

// One microbatch of a model that lies whole on one pipeline rank.
class Measurement {
 public:
  Measurement(const MachineOptions& options, const Degrees& degrees)
      : options_(options),
        mesh_(Mesh::planned(0, {.tensor = degrees.tensor, .pipeline = 1, .data = 1})),
        parts_(options.split_heads ? degrees.pipeline : 1),
        model_(build_model(options.model, options.exits, measured_options(options, mesh_.tensor, {.part = 0, .parts = parts_}))),
        flat_(plan_.memory, entries(), {.values = options.precision}) {
    model_.prepare(plan_.ctx, plan_.memory);
    const std::int64_t tokens = options.micro_batch_size * options.sequence_length;
    ids_ = plan_.memory.tensor({tokens}, DType::i32);
    sequences_.length = options.sequence_length;
    if (options.document_mask) sequences_.positions = sequences_.first_key = ids_;
    whole_slab_ = slab_ = slab_of(options.model);
    plan_.calls.clear();
  }

  std::vector<ModelWork> run(const std::vector<Pass>& passes) {
    Layout one;
    one.exits.resize(model_.heads.size());
    const std::vector<PassPlace> places = place_passes(passes, model_, one);
    std::vector<ModelWork> works;
    for (std::size_t p = 0; p < places.size(); ++p) {
      const bool teaches = std::ranges::any_of(places, [&](const PassPlace& other) { return other.teacher == static_cast<int>(p); });
      works.push_back(run(passes[p], places[p], teaches));
    }
    return works;
  }

 private:
  ModelWork run(const Pass& pass, const PassPlace& place, bool teaches) {
    const ModelConfig& whole = options_.model;
    const ModelConfig narrow = narrowed(whole, pass.subnet);
    pass_ = pass;
    slab_ = slab_of(narrow);
    ModelWork work;
    work.layer_share = flops_of_layer(narrow, options_) / flops_of_layer(whole, options_);
    work.width_share = static_cast<double>(narrow.hidden_size) / static_cast<double>(whole.hidden_size);
    if (!model_.given_taps) units(work);
    if (teaches && !model_.given_taps) work.final = final_tap();
    for (std::size_t e = 0; e < place.exits.size(); ++e) work.exits.push_back(exit(model_.heads[e], place.exits[e]));
    const auto bytes = static_cast<double>(slab_.bytes());
    work.message = {.name = "send", .cost = {}, .ranks = 2, .wire = name_of(Wire::pipeline), .sent = bytes};
    work.statistics = work.message;
    work.statistics.sent = static_cast<double>(statistics_bytes(ids_.elements(), 1));
    return work;
  }

  Tensor slab_of(const ModelConfig& model) {
    return plan_.memory.tensor({model_.tensor.rows(ids_.elements()), model.hidden_size}, options_.precision);
  }

  void units(ModelWork& work) {
    work.embedding = unit(0);
    work.attention = unit(1);
    if (model_.units.size() > 2) work.mlp = unit(2);  // a frozen backbone may end before
  }

  UnitWork unit(std::size_t number) {
    Module& module = *model_.units[number].module;
    UnitWork work;
    const Keep kept = options_.recompute == "selective" ? Keep::all_but_attention : Keep::everything;
    Slot slot(plan_.stash, model_.frozen ? Keep::nothing : kept, sequences_, model_.frozen ? Draws{} : draws(), pass_.subnet);
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

  Counted final_tap() {
    Slot apart(plan_.scratch, Keep::nothing, sequences_);
    model_.final->tap(plan_.ctx, whole_slab_, whole_slab_, apart);
    return plan_.taken();
  }

  ExitWork exit(Head& head, ExitRole role) {
    ExitWork work;
    if (role == ExitRole::absent) return work;
    const Tensor sums = plan_.memory.tensor({kLossSums}, DType::f64);
    const HeadIn in = head_input(role);
    work.taught = role == ExitRole::taught;
    if (parts_ == 1) {
      head.exit(plan_.ctx, head.spec().detach ? Tensor{} : slab_, sums, in, sequences_, true);
      work.whole = plan_.taken();
      return work;
    }
    probe_split_head(head, {plan_.ctx, plan_.stash, slab_, in, sums, sequences_, parts_}, true,
                     [&](Op op) { work.of(op) = plan_.taken(); });
    return work;
  }

  HeadIn head_input(ExitRole role) {
    HeadIn in{slab_, ids_, plan_.memory.tensor({1}, DType::f32), draws()};
    in.subnet = pass_.subnet;
    if (role == ExitRole::taught) in.teacher = {whole_slab_, &model_.final->output()};
    if (pass_.teaching == Teaching::labels) return in;
    in.target = Target::distribution;
    in.temperature = static_cast<float>(options_.temperature);
    return in;
  }

  Draws draws() const { return pass_.regularise ? draws_ : Draws{}; }

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
  Tensor ids_, whole_slab_, slab_;
  Sequences sequences_;
  Draws draws_{.on = true};
  Pass pass_;  // that is measured
};

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

std::vector<ModelWork> measure_passes(const MachineOptions& options, const Degrees& degrees, const std::vector<Pass>& passes) {
  return Measurement(options, degrees).run(passes);
}
ModelWork measure_work(const MachineOptions& options, const Degrees& degrees) { return measure_passes(options, degrees, {Pass{}}).front(); }

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

}  // namespace offramp
