#include "parallel/machine.h"

#include <algorithm>
#include <set>

#include "comm/mpi.h"
#include "optim/update.h"
#include "tensor/check.h"

namespace offramp {

Machine::Machine(const MachineOptions& options, const Mesh& mesh, Backing backing, std::size_t bytes, std::function<void()> tick,
                 Activity* activity)
    : options_(options), mesh_(mesh), arena_(backing, bytes), model_(build_model(options.model, options.exits)) {
  ctx_.tick = std::move(tick);
  ctx_.activity = activity;
  const int stage = mesh_.at.pipeline;
  partition_ = even_partition(static_cast<int>(options.model.num_hidden_layers), mesh_.degrees.pipeline);
  ties_ = find_ties(model_, partition_);
  const bool reduces = mesh_.degrees.data > 1;
  segments_ = reduces ? cut_segments(model_, partition_.units(stage), options.bucket_elements) : std::vector{partition_.units(stage)};
  flat_ = std::make_unique<Flat>(arena_, flat_entries(model_, partition_, stage, segments_, ties_), options.optimizer_state);
  memory_.parameters = flat_->value_bytes();
  memory_.gradients = flat_->gradient_bytes();
  memory_.optimizer = flat_->state_bytes();
  allocate_buffers();
  Meter uncounted;
  if (backing == Backing::none) ctx_.meter = &uncounted;
  model_.prepare(ctx_, arena_);
  ctx_.meter = nullptr;
  training_ = make_plan(options.microbatches, true);
  measure();
  allocate_pools();
  memory_.peak = arena_.used();
  memory_.buffers = memory_.peak - memory_.parameters - memory_.gradients - memory_.optimizer - memory_.activations - memory_.transients;
  for (const Bucket& bucket : flat_->buckets())
    memory_.messages += all_reduce_memory(flat_->gradients(bucket.range).bytes(), mesh_.degrees.data);
  ctx_.scratch = &scratch_;
  if (backing != Backing::none) check_schedules();
  interpreter_ = std::make_unique<Interpreter>(ctx_, Equipment{Stage(model_, partition_.units(stage)), &model_.heads, flat_.get(), &mesh_,
                                                               &pools_, &ties_, segments_, options.model.hidden_size});
}

Machine::Plan Machine::make_plan(int microbatches, bool backward) {
  Plan plan;
  plan.layout = make_layout(model_, partition_, ties_, {microbatches, backward, mesh_.degrees.data > 1, options_.bucket_elements});
  plan.program = build_program(options_.schedule, plan.layout, mesh_.at.pipeline);
  return plan;
}

void Machine::allocate_buffers() {
  const std::int64_t tokens = options_.micro_batch_size * options_.sequence_length;
  const auto exits = static_cast<std::int64_t>(model_.heads.size());
  for (int m = 0; m < options_.microbatches; ++m) {
    MicrobatchInput& input = inputs_.emplace_back();
    input.ids = arena_.tensor({tokens}, DType::i32);
    input.labels = arena_.tensor({tokens}, DType::i32);
    input.sequences.length = options_.sequence_length;
    if (!options_.document_mask) continue;
    input.sequences.positions = arena_.tensor({tokens}, DType::i32);
    input.sequences.first_key = arena_.tensor({tokens}, DType::i32);
  }
  for (std::int64_t e = 0; e < exits; ++e) exit_scale_.push_back(arena_.tensor({1}, DType::f32));
  const auto squares = LogicalNames(model_).size();
  statistics_ = arena_.tensor({exits * kLossSums + squares + kPhases}, DType::f64);
  sums_ = statistics_.narrow(0, 0, exits * kLossSums).reshape({exits, kLossSums});
  squares_ = statistics_.narrow(0, exits * kLossSums, squares);
  phases_ = statistics_.narrow(0, exits * kLossSums + squares, kPhases);
  scalars_ = arena_.tensor({4}, DType::f32);
}

// Runs one of each kind of action in plan mode: what the stash and the scratch must hold, and how many FLOPs there are.
void Machine::measure() {
  Meter meter;
  Arena stash(Backing::none, kUnlimited), scratch(Backing::none, kUnlimited), slabs(Backing::none, kUnlimited);
  Context planning;
  planning.scratch = &scratch;
  planning.meter = &meter;
  const Stage stage(model_, partition_.units(mesh_.at.pipeline));
  const MicrobatchInput& input = inputs_.front();
  const Shape activations{input.ids.elements(), options_.model.hidden_size};
  const Tensor slab = slabs.tensor(activations, DType::f32);
  const Tensor x = mesh_.at.pipeline == 0 ? input.ids : slab;

  std::set<int> tapped;
  for (const Head& head : model_.heads) tapped.insert(head.tap());
  const int last = stage.units().end - 1;
  const auto destination = [&](int unit) { return tapped.contains(unit) || unit == last ? slab : Tensor{}; };
  const auto exits = [&](bool train) {
    for (Head& head : model_.heads) {
      if (!stage.units().contains(head.tap())) continue;
      const HeadIn in{slab, input.labels, exit_scale_.front()};
      head.exit(planning, train && !head.spec().detach ? slab : Tensor{}, sums_.narrow(0, 0, 1).reshape({kLossSums}), in, input.sequences,
                train);
    }
  };
  Slot evaluation(scratch, Keep::nothing, input.sequences);
  stage.forward(planning, x, destination, evaluation);
  exits(false);
  meter = {};
  Slot slot(stash, Keep::everything, input.sequences);
  stage.forward(planning, x, destination, slot);
  exits(true);
  stage.backward(planning, slab, {}, stage.units(), slot);
  flops_ = meter.total.flops;
  for (const TiedHere& here : flat_->tied())
    reduce_tie(planning, here, ties_[static_cast<std::size_t>(here.tie)], mesh_.at.pipeline,
               Group::planned(mesh_.at.pipeline, mesh_.degrees.pipeline, Wire::pipeline));
  gradient_squares(planning, *flat_, LogicalNames(model_), {}, squares_);
  stash_bytes_ = stash.peak();
  scratch_bytes_ = scratch.peak();
}

void Machine::allocate_pools() {
  const Plan& evaluation = evaluations_[options_.microbatches] = make_plan(options_.microbatches, false);
  const SlabCounts training = peak_slabs(training_.program, training_.layout);
  const SlabCounts evaluating = peak_slabs(evaluation.program, evaluation.layout);
  const std::size_t slab = aligned(inputs_.front().ids.bytes() * static_cast<std::size_t>(options_.model.hidden_size));
  const std::size_t before = arena_.used();
  for (int h = 0; h < kHolds; ++h) {
    const auto hold = static_cast<Hold>(h);
    int count = std::max(training[static_cast<std::size_t>(h)], evaluating[static_cast<std::size_t>(h)]);
    if (hold == Hold::Output && count == 1 && options_.microbatches > 1) count = 2;  // one is filled while the other leaves
    pools_.emplace_back(arena_, name_of(hold), hold == Hold::Stash ? aligned(stash_bytes_) : slab, count);
  }
  memory_.activations = arena_.used() - before;
  memory_.transients = aligned(scratch_bytes_);
  scratch_ = Arena(arena_.bytes(memory_.transients), memory_.transients, "scratch");
}

// What a rank runs was generated for it alone; whether the ranks fit together is seen in the whole.
void Machine::check_schedules() const {
  for (const Plan* plan : {&training_, &evaluations_.at(options_.microbatches)})
    validate(build_schedule(options_.schedule, plan->layout), plan->layout);
}

void Machine::train(const std::string& name, PhaseTimes& times) {
  fill_zero(ctx_, flat_->all_gradients());
  run(training_, options_.microbatches, name, times);
}

void Machine::evaluate(int microbatches, const std::string& name, PhaseTimes& times) {
  auto it = evaluations_.find(microbatches);
  if (it == evaluations_.end()) it = evaluations_.emplace(microbatches, make_plan(microbatches, false)).first;
  run(it->second, microbatches, name, times);
}

void Machine::run(const Plan& plan, int microbatches, const std::string& name, PhaseTimes& times) {
  const StepInput input{std::span(inputs_).first(static_cast<std::size_t>(microbatches)), exit_scale_, sums_, name};
  interpreter_->run(plan.program, plan.layout, input, times);
}

MemoryPlan plan_memory(const MachineOptions& options, const Mesh& mesh) {
  return Machine(options, mesh, Backing::none, kUnlimited).memory();
}

}  // namespace offramp
