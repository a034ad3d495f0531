#include "parallel/machine.h"

#include <algorithm>

#include "comm/mpi.h"
#include "optim/update.h"
#include "parallel/settle.h"
#include "parallel/split_head.h"
#include "parallel/step_schedule.h"
#include "tensor/check.h"

namespace offramp {

Machine::Machine(const MachineOptions& options, const Mesh& mesh, Backing backing, std::size_t bytes, std::function<void()> tick,
                 Activity* activity)
    : options_(settled(options, mesh.degrees)), mesh_(mesh), arena_(backing, bytes), held_(options_, mesh, arena_) {
  OFFRAMP_CHECK(!options.given_taps || mesh.degrees.pipeline == 1, "[machine] stages whose taps are given have nothing to pass on");
  ctx_.tick = std::move(tick);
  ctx_.activity = activity;
  memory_.parameters = held_.flat.value_bytes() + (held_.teacher ? held_.teacher->flat().value_bytes() : 0);
  memory_.gradients = held_.flat.gradient_bytes();
  memory_.optimizer = held_.flat.state_bytes();
  plan_steps();
  allocate_buffers();
  Meter uncounted;
  if (backing == Backing::none) ctx_.meter = &uncounted;
  held_.model.prepare(ctx_, arena_);
  ctx_.meter = nullptr;
  measured_ = measure_rank({.options = options_,
                            .mesh = mesh_,
                            .held = held_,
                            .layout = training_.layout,
                            .input = inputs_.front(),
                            .scale = exit_scale_.front(),
                            .sums = sums().narrow(0, 0, 1).reshape({kLossSums}),
                            .squares = squares_,
                            .activations = activations(),
                            .keep = keep(),
                            .passes = measured_passes_,
                            .evaluated = options_.evaluated});
  allocate_pools();
  memory_.peak = arena_.used();
  memory_.buffers = memory_.peak - memory_.parameters - memory_.gradients - memory_.optimizer - memory_.activations - memory_.transients;
  memory_.messages = message_memory();
  ctx_.scratch = &scratch_;
  if (backing != Backing::none) check_schedules();
  std::vector<Stage> stages, of_teacher;
  for (const HeldStage& stage : held_.stages) {
    stages.emplace_back(held_.model, stage.units, stage.segments);
    if (held_.teacher) of_teacher.emplace_back(held_.teacher->model(), stage.units);
  }
  interpreter_ = std::make_unique<Interpreter>(ctx_, Equipment{.stages = std::move(stages),
                                                               .teacher = std::move(of_teacher),
                                                               .units = static_cast<int>(held_.model.units.size()),
                                                               .heads = &held_.model.heads,
                                                               .final = held_.model.final ? &*held_.model.final : nullptr,
                                                               .teacher_final = held_.teacher ? &*held_.teacher->model().final : nullptr,
                                                               .flat = &held_.flat,
                                                               .mesh = &mesh_,
                                                               .pools = &pools_,
                                                               .ties = &held_.ties,
                                                               .activations = activations(),
                                                               .precision = options.precision,
                                                               .sequence_parallel = held_.model.tensor.splits_rows(),
                                                               .keep = keep()});
}

Keep Machine::keep() const { return options_.recompute == "selective" ? Keep::all_but_attention : Keep::everything; }

Shape Machine::activations() const {
  return {held_.model.tensor.rows(options_.micro_batch_size * options_.sequence_length), options_.model.hidden_size};
}

Machine::Plan Machine::make_plan(int microbatches, bool backward, const std::vector<Pass>& passes) {
  Plan plan;
  plan.passes = passes.empty() ? std::vector{Pass{}} : passes;
  plan.layout = step_layout(options_, held_, microbatches, backward, passes);
  const bool known = backward && options_.known_schedule && passes.empty();
  plan.program = known ? (*options_.known_schedule)[static_cast<std::size_t>(mesh_.at.pipeline)]
                       : build_program(step_schedule(options_, held_, plan.layout, passes), plan.layout, mesh_.at.pipeline);
  return plan;
}

namespace {

bool is_plain(const std::vector<Pass>& passes) { return passes.size() == 1 && passes.front().subnet == Subnet{}; }

bool computes_alike(const Pass& a, const Pass& b) { return a.subnet == b.subnet && a.teaching == b.teaching; }

void add_measured(std::vector<Pass>& all, const Pass& pass) {
  if (std::ranges::none_of(all, [&](const Pass& other) { return computes_alike(pass, other); }))
    all.push_back({.subnet = pass.subnet, .weight = 1, .teaching = pass.teaching, .regularise = true});
}

}  // namespace

void Machine::plan_steps() {
  training_ = make_plan(options_.microbatches, true);
  add_measured(measured_passes_, Pass{});
  for (const Pass& pass : options_.pass_kinds) add_measured(measured_passes_, pass);
  for (const std::vector<Pass>& passes : options_.step_passes) {
    for (const Pass& pass : passes) add_measured(measured_passes_, pass);
    const std::vector<PassPlace> places = place_passes(passes, held_.model, training_.layout);
    if (!is_plain(passes) && !steps_.contains(places)) steps_.emplace(places, make_plan(options_.microbatches, true, passes));
  }
}

void Machine::set_passes(const std::vector<Pass>& passes) {
  const auto step = is_plain(passes) ? steps_.end() : steps_.find(place_passes(passes, held_.model, training_.layout));
  OFFRAMP_CHECK(step != steps_.end() || is_plain(passes), "[machine] a step of passes that no options name");
  training_now_ = step == steps_.end() ? &training_ : &step->second;
  training_now_->passes = passes;
}

void Machine::allocate_buffers() {
  const std::int64_t tokens = options_.micro_batch_size * options_.sequence_length;
  const auto exits = static_cast<std::int64_t>(held_.model.heads.size());
  for (int m = 0; m < training_.layout.microbatches; ++m) {
    MicrobatchInput& input = inputs_.emplace_back();
    input.ids = arena_.tensor({tokens}, DType::i32);
    input.labels = arena_.tensor({tokens}, DType::i32);
    input.sequences.length = options_.sequence_length;
    if (!options_.document_mask) continue;
    input.sequences.positions = arena_.tensor({tokens}, DType::i32);
    input.sequences.first_key = arena_.tensor({tokens}, DType::i32);
  }
  std::size_t passes = 1;
  for (const auto& [places, plan] : steps_) passes = std::max(passes, plan.passes.size());
  for (std::size_t e = 0; e < passes * held_.model.heads.size(); ++e) exit_scale_.push_back(arena_.tensor({1}, DType::f32));
  if (options_.fill_bubbles == Fill::cooldown) gradient_scale_ = arena_.tensor({1}, DType::f32);
  if (options_.layer_drop) layer_rates_.assign(static_cast<std::size_t>(options_.model.num_hidden_layers), 0.0f);
  const LogicalNames names(held_.model);
  const std::int64_t squares = names.size();
  const std::int64_t sums = static_cast<std::int64_t>(passes) * exits * kLossSums;
  statistics_ = arena_.tensor({sums + squares + kPhases + kVotes}, DType::f64);
  sums_ = statistics_.narrow(0, 0, sums).reshape({static_cast<std::int64_t>(passes), exits, kLossSums});
  squares_ = statistics_.narrow(0, sums, squares);
  phases_ = statistics_.narrow(0, sums + squares, kPhases);
  votes_ = statistics_.narrow(0, sums + squares + kPhases, kVotes);
  scalars_ = arena_.tensor({names.clip_groups(), 4}, DType::f32);
  if (!options_.snapshot) return;
  std::int64_t elements = 0;
  for (const Bucket& bucket : held_.flat.buckets()) elements += held_.flat.shard(bucket).count();
  const std::int64_t kinds = 1 + static_cast<std::int64_t>(options_.optimizer_state.size()) + (held_.teacher ? 1 : 0);
  snapshot_ = arena_.tensor({kinds, elements}, DType::f32);
}

// Sums under way at once: all buckets' at the end of a step; before it a few of a unit's or an exit's activations.
std::size_t Machine::message_memory() const {
  const auto sums = held_.flat.shards_state() ? reduce_scatter_memory : all_reduce_memory;
  std::size_t buckets = 0;
  for (const Bucket& bucket : held_.flat.buckets()) buckets += sums(held_.flat.gradients(bucket.range).bytes(), mesh_.degrees.data);
  const std::size_t rows = static_cast<std::size_t>(inputs_.front().ids.elements() * options_.model.hidden_size);
  const auto exchange = held_.model.tensor.splits_rows() ? reduce_scatter_memory : all_reduce_memory;
  return buckets + exchange(rows * size_of(options_.precision), mesh_.degrees.tensor);
}

std::size_t Machine::slab_bytes(Hold hold) const {
  const std::size_t slab = static_cast<std::size_t>(activations().elements()) * size_of(options_.precision);
  const std::int64_t tokens = inputs_.front().labels.elements();
  switch (hold) {
    case Hold::Stash:
      return measured_.stash;
    case Hold::Deferred:
      return measured_.deferred;
    case Hold::HeadStash:
      return measured_.head_stash;
    case Hold::HeadScores:
      return scores_bytes(tokens, held_.model.heads.front().output().vocabulary());
    case Hold::HeadStats:
      return statistics_bytes(tokens, mesh_.degrees.pipeline);
    case Hold::HeadShares:
      return slab * static_cast<std::size_t>(mesh_.degrees.pipeline - 1);
    default:
      return slab;
  }
}

void Machine::allocate_pools() {
  SlabCounts evaluating{}, counts{};
  const auto raise = [](SlabCounts& to, const SlabCounts& by) {
    for (std::size_t h = 0; h < to.size(); ++h) to[h] = std::max(to[h], by[h]);
  };
  evaluation(options_.microbatches);
  for (const Subnet& subnet : options_.evaluated) evaluation(options_.microbatches, subnet);
  for (const auto& [key, plan] : evaluations_) raise(evaluating, peak_slabs(plan.program, plan.layout));
  const auto add = [&](const Plan& plan) {
    raise(counts, pooled_slabs(peak_slabs(plan.program, plan.layout), evaluating, plan.layout.microbatches));
  };
  const bool runs_whole = options_.step_passes.empty() || std::ranges::any_of(options_.step_passes, is_plain);
  if (runs_whole) add(training_);
  for (const auto& [places, plan] : steps_) add(plan);
  const std::size_t before = arena_.used();
  for (int h = 0; h < kHolds; ++h) {
    const auto hold = static_cast<Hold>(h);
    pools_.emplace_back(arena_, name_of(hold), aligned(slab_bytes(hold)), counts[static_cast<std::size_t>(h)]);
  }
  memory_.activations = arena_.used() - before;
  memory_.transients = aligned(measured_.scratch);
  scratch_ = Arena(arena_.bytes(memory_.transients), memory_.transients, "scratch");
}

// What a rank runs was generated for it alone; whether the ranks fit together is seen in the whole.
void Machine::check_schedules() {
  const auto whole = [&](const Plan& plan) {
    const bool alone = is_plain(plan.passes);
    return build_schedule(step_schedule(options_, held_, plan.layout, alone ? std::vector<Pass>{} : plan.passes), plan.layout);
  };
  validate(options_.known_schedule ? *options_.known_schedule : whole(training_), training_.layout);
  for (const auto& [places, plan] : steps_) validate(whole(plan), plan.layout);
  for (const auto& [key, plan] : evaluations_) validate(whole(plan), plan.layout);
}

// Partial microbatches have one stage a rank, and no subnets.
std::vector<double> Machine::pass_flops() const {
  const Layout& layout = training_.layout;
  std::vector<double> flops;
  for (const PassMeasure& pass : measured_.passes) {
    double& all = flops.emplace_back(layout.reach.empty() ? pass.flops * layout.microbatches : 0);
    for (int m = 0; m < layout.microbatches && !layout.reach.empty(); ++m)
      all += layout.runs_backward(held_.rank, m) ? pass.flops : layout.runs_forward(held_.rank, m) ? pass.forward_flops : 0;
  }
  return flops;
}

std::size_t Machine::pass_kind(const Pass& pass) const {
  const auto kind = std::ranges::find_if(measured_passes_, [&](const Pass& other) { return computes_alike(pass, other); });
  OFFRAMP_CHECK(kind != measured_passes_.end(), "[machine] no step has a pass of {}", to_text(pass.subnet));
  return static_cast<std::size_t>(kind - measured_passes_.begin());
}

double Machine::step_flops() const {
  const std::vector<double> flops = pass_flops();
  double sum = 0;
  for (const Pass& pass : training_now_->passes) sum += flops[pass_kind(pass)];
  return sum;
}

std::span<const Tensor> Machine::exit_scale(std::size_t pass) const {
  return std::span(exit_scale_).subspan(pass * held_.model.heads.size(), held_.model.heads.size());
}

Tensor Machine::sums(std::size_t pass) const {
  return sums_.narrow(0, static_cast<std::int64_t>(pass), 1).reshape({sums_.shape[1], kLossSums});
}

RankBytes Machine::rank_bytes() const {
  RankBytes bytes{.rest = memory_.peak - memory_.activations, .slab = {}, .evaluation = {}};
  for (std::size_t h = 0; h < pools_.size(); ++h) bytes.slab[h] = pools_[h].slab_bytes();
  for (const auto& [key, plan] : evaluations_) {
    const SlabCounts slabs = peak_slabs(plan.program, plan.layout);
    for (std::size_t h = 0; h < slabs.size(); ++h) bytes.evaluation[h] = std::max(bytes.evaluation[h], slabs[h]);
  }
  return bytes;
}

void Machine::train(const std::string& name, PhaseTimes& times) {
  const bool taught = training_now_->passes.front().teaching == Teaching::nobody;
  OFFRAMP_CHECK(!taught || held_.teacher->taken(), "[machine] {}: there is no teacher yet", name);
  fill_zero(ctx_, held_.flat.all_gradients());
  run(*training_now_, training_.layout.microbatches, name, times);
}

void Machine::share_values() {
  if (held_.flat.shards_state()) {
    std::vector<Work> gathering;
    for (const Bucket& bucket : held_.flat.buckets())
      gathering.push_back(all_gather(ctx_, held_.flat.values(bucket.range), held_.flat.values(held_.flat.shard(bucket)), mesh_.data));
    for (Work& work : gathering) work.wait(ctx_);
  }
  for (const TiedHere& here : held_.flat.tied()) share_value(ctx_, here, held_.ties[static_cast<std::size_t>(here.tie)], mesh_.pipeline);
}

const Machine::Plan& Machine::evaluation(int microbatches, const Subnet& subnet) {
  const std::vector<Pass> passes = {{.subnet = subnet}};
  std::pair key{microbatches, place_passes(passes, held_.model, training_.layout)};
  auto it = evaluations_.find(key);
  if (it == evaluations_.end())
    it = evaluations_.emplace(key, make_plan(microbatches, false, is_plain(passes) ? std::vector<Pass>{} : passes)).first;
  it->second.passes = passes;
  return it->second;
}

void Machine::evaluate(int microbatches, const std::string& name, PhaseTimes& times, const Subnet& subnet) {
  run(evaluation(microbatches, subnet), microbatches, name, times);
}

void Machine::read_taps(int microbatches, const std::string& name, const TapFunction& read) {
  OFFRAMP_CHECK(!options_.split_heads, "[machine] a tap that is shared over the pipeline is no exit's alone");
  PhaseTimes times;
  run(evaluation(microbatches), microbatches, name, times, read);
}

std::vector<PassInput> Machine::pass_inputs(const Plan& plan) const {
  std::vector<PassInput> inputs;
  for (std::size_t p = 0; p < plan.passes.size(); ++p) {
    const Pass& pass = plan.passes[p];
    PassInput& input = inputs.emplace_back();
    input = {pass.subnet, exit_scale(p), sums(p), pass.regularise, {}};
    if (pass.teaching == Teaching::labels || pass.teaching == Teaching::nobody) continue;
    input.target = Target::distribution;
    input.temperature = static_cast<float>(options_.temperature);
    input.label_weight = static_cast<float>(options_.label_weight);
  }
  return inputs;
}

void Machine::run(const Plan& plan, int microbatches, const std::string& name, PhaseTimes& times, const TapFunction& read) {
  OFFRAMP_CHECK(!options_.given_taps || give_tap_, "[machine] nobody gives the taps");
  StepInput input;
  input.microbatches = std::span(inputs_).first(static_cast<std::size_t>(microbatches));
  input.passes = pass_inputs(plan);
  input.draws = {.on = plan.layout.backward, .seed = options_.seed, .layer_rates = layer_rates_};
  input.name = name;
  if (plan.layout.backward) input.gradient_scale = gradient_scale_, input.trace = trace_;
  input.stand_in = stand_in_;
  input.give_tap = give_tap_;
  input.read_tap = read;
  interpreter_->run(plan.program, plan.layout, input, times);
}

MemoryPlan plan_memory(const MachineOptions& options, const Mesh& mesh) {
  return Machine(options, mesh, Backing::none, kUnlimited).memory();
}

}  // namespace offramp
