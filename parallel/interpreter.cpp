#include "parallel/interpreter.h"

#include <algorithm>

#include "parallel/actions.h"
#include "parallel/work.h"
#include "tensor/check.h"

namespace offramp {
namespace {

double& phase_of(Op op, PhaseTimes& times) {
  switch (op) {
    case Op::Forward:
      return times.forward;
    case Op::Backward:
    case Op::Recompute:
    case Op::WeightGrad:
      return times.backward;
    case Op::Exit:
    case Op::Tap:
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
    case Op::Untap:
      return times.exits;
    default:
      return times.communication;
  }
}

}  // namespace

void Interpreter::run(const Program& program, const Layout& layout, const StepInput& input, PhaseTimes& times) {
  OFFRAMP_CHECK(std::ssize(input.passes) == layout.pass_count(), "[interpreter] {} passes for a program of {}", input.passes.size(),
                layout.pass_count());
  widths_.clear();
  for (const PassInput& pass : input.passes) widths_.push_back(pass.subnet.hidden_size > 0 ? pass.subnet.hidden_size : on_.activations[1]);
  for (const Action& action : program) {
    if (ctx_->activity) ctx_->activity->begin(fmt::format("{}, {}", input.name, to_text(action)));
    const double begin = now();
    waited_ = 0;
    const Lifetimes memory = lifetimes(action, layout);
    for (const Slab& slab : memory.takes) take(slab);
    execute(action, layout, input);
    for (const Slab& slab : memory.gives) give(slab);
    ctx_->beat();
    const double end = now();
    phase_of(action.op, times) += end - begin - waited_;
    times.communication += waited_;
    if (!input.trace) continue;
    input.trace->push_back({to_text(action), 0, begin, end, 0, waited_});
    look_for_ends(*input.trace);
  }
  const double begin = now();
  if (layout.buckets.empty())  // none was reduced
    for (const Bucket& bucket : on_.flat->buckets()) scale_gradients(bucket, input);
  finish(input.trace);
  times.communication += now() - begin;
  OFFRAMP_CHECK(live_.empty() && kept_.empty() && arriving_.empty(), "[interpreter] {} slabs were left behind", live_.size());
}

void Interpreter::execute(const Action& action, const Layout& layout, const StepInput& input) {
  if (input.stand_in && computes(action.op)) {
    await_arrivals(action, layout);
    return input.stand_in(action);
  }
  switch (action.op) {
    case Op::Forward:
      return forward(action, layout, input);
    case Op::Exit:
      return exit(action, layout, input);
    case Op::Backward:
      return backward(action, layout);
    case Op::Recompute:
      return recompute(action, layout, input);
    case Op::WeightGrad:
      return weight_gradient(action, layout);
    case Op::SendActivation:
      return send_slab(action, Hold::Output, action.stage + 1);
    case Op::RecvActivation:
      return receive_slab(action, Hold::Input, action.stage - 1);
    case Op::SendGradient:
      return send_slab(action, Hold::Gradient, action.stage - 1);
    case Op::RecvGradient:
      return receive_slab(action, Hold::Gradient, action.stage + 1);
    case Op::ShareFinal:
      return share_final(action, layout);
    case Op::ReduceTied:
      return reduce_tied(action, input);
    case Op::ReduceGradients:
      return reduce_gradients(action, input);
    default:
      return execute_head(action, layout, input);
  }
}

// Of the receives that the action needs, those that are still under way.
void Interpreter::await_arrivals(const Action& action, const Layout& layout) {
  for (const Action& needed : dependencies(action, layout))
    for (const Slab& slab : lifetimes(needed, layout).takes)
      if (arriving_.contains(slab)) await_arrival(slab);
}

Tensor Interpreter::input_of(const Action& action, const MicrobatchInput& microbatch) const {
  return action.stage > 0 ? tensor_of(Hold::Input, action) : microbatch.ids;
}

std::unique_ptr<Interpreter::KeptForward> Interpreter::keep_forward(const Slab& stash, Keep keep, const StepInput& input) const {
  const int m = stash.microbatch;
  const Pool& pool = (*on_.pools)[static_cast<std::size_t>(stash.what)];
  std::byte* memory = pool.memory(live_.at(stash));
  return std::make_unique<KeptForward>(memory, pool.slab_bytes(), keep, input.samples(m).sequences, input.draws_of(m),
                                       input.pass(m).subnet);
}

Units Interpreter::units_of(const Action& action, const Layout& layout, Units units) const {
  return {units.begin, std::clamp(end_of_pass(layout.pass_of(action.microbatch), on_.units, layout), units.begin, units.end)};
}

// A frozen backbone omits nothing: exits see what they will see when the model is used.
void Interpreter::forward(const Action& action, const Layout& layout, const StepInput& input) {
  if (input.give_tap) return give_taps(action, layout, input);
  const MicrobatchInput& microbatch = input.samples(action.microbatch);
  const Stage& stage = layout.of_frozen_teacher(action.microbatch) ? teacher_stage_of(action) : stage_of(action);
  const int end = units_of(action, layout, stage.units()).end;
  if (action.stage > 0) await_arrival({Hold::Input, action.stage, action.microbatch});
  const auto destination = [&](int unit) {
    const bool output = unit + 1 == stage.units().end && live_.contains({Hold::Output, action.stage, action.microbatch});
    if (output) return tensor_of(Hold::Output, action);
    if (unit == end) return live_.contains({Hold::Final, action.stage, action.microbatch}) ? tensor_of(Hold::Final, action) : Tensor{};
    const bool tapped = live_.contains({Hold::Tap, action.stage, action.microbatch, static_cast<std::int16_t>(unit)});
    return tapped ? tensor_of(Hold::Tap, action, unit) : Tensor{};
  };
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  if (!live_.contains(stash)) {
    const Draws draws = layout.frozen ? Draws{} : input.draws_of(action.microbatch);
    Slot slot(*ctx_->scratch, Keep::nothing, microbatch.sequences, draws, input.pass(action.microbatch).subnet);
    stage.forward(*ctx_, input_of(action, microbatch), destination, slot, end);
    return read_final(action, input);
  }
  auto kept = keep_forward(stash, on_.keep, input);
  stage.forward(*ctx_, input_of(action, microbatch), destination, kept->slot, end);
  kept_[stash] = std::move(kept);
}

void Interpreter::give_taps(const Action& action, const Layout& layout, const StepInput& input) {
  const MicrobatchInput& microbatch = input.samples(action.microbatch);
  for (const ExitPlace& place : layout.exits) input.give_tap(microbatch, place.tap, tensor_of(Hold::Tap, action, place.tap));
  if (live_.contains({Hold::Final, action.stage, action.microbatch})) input.give_tap(microbatch, kFinalTap, tensor_of(Hold::Final, action));
}

// Here rather than in its exits: the last stage may have none.
void Interpreter::read_final(const Action& action, const StepInput& input) const {
  if (input.read_tap && live_.contains({Hold::Final, action.stage, action.microbatch}))
    input.read_tap(input.samples(action.microbatch), kFinalTap, tensor_of(Hold::Final, action));
}

// The same once more, to the same bits. What left the stage, and what exits read, is there already: this time it goes to the stash.
void Interpreter::recompute(const Action& action, const Layout& layout, const StepInput& input) {
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  auto kept = keep_forward(stash, on_.keep, input);
  const Stage& stage = stage_of(action);
  stage.forward(
      *ctx_, input_of(action, input.samples(action.microbatch)), [](int) { return Tensor{}; }, kept->slot,
      units_of(action, layout, stage.units()).end);
  kept_[stash] = std::move(kept);
}

Tensor Interpreter::tap_of(const Action& action, const Layout& layout) const {
  const ExitPlace& place = layout.exits[static_cast<std::size_t>(action.index)];
  return place.at_output ? tensor_of(Hold::Output, action) : tensor_of(Hold::Tap, action, place.tap);
}

void Interpreter::exit(const Action& action, const Layout& layout, const StepInput& input) {
  const MicrobatchInput& microbatch = input.samples(action.microbatch);
  const PassInput& pass = input.pass(action.microbatch);
  const ExitPlace& place = layout.exits[static_cast<std::size_t>(action.index)];
  const Teacher teacher = teacher_of(action, layout);  // it has arrived then, also where nobody learns
  if (input.read_tap) return input.read_tap(microbatch, place.tap, tap_of(action, layout));
  Head& head = (*on_.heads)[static_cast<std::size_t>(action.index)];
  HeadIn in;
  in.x = tap_of(action, layout);
  in.labels = microbatch.labels;
  in.scale = pass.exit_scale[static_cast<std::size_t>(action.index)];
  in.draws = input.draws_of(action.microbatch);
  in.teacher = teacher;
  in.target = pass.target;
  in.temperature = pass.temperature;
  in.label_weight = pass.label_weight;
  in.subnet = pass.subnet;
  const bool gradient = layout.learns() && place.gradient;
  const Tensor d_tap = gradient ? tensor_of(Hold::TapGradient, action, action.index) : Tensor{};
  const Tensor sums = pass.sums.narrow(0, action.index, 1).reshape({kLossSums});
  head.exit(*ctx_, d_tap, sums, in, microbatch.sequences, layout.backward);
}

Teacher Interpreter::teacher_of(const Action& action, const Layout& layout) {
  if (layout.role_of(action.index, action.microbatch) != ExitRole::taught) return {};
  const Action teacher = make_action(Op::Forward, action.stage, layout.teacher_of(action.microbatch));
  const Slab final{Hold::Final, teacher.stage, teacher.microbatch};
  if (arriving_.contains(final)) await_arrival(final);
  Head* head = layout.of_frozen_teacher(teacher.microbatch) ? on_.teacher_final : on_.final;
  return {tensor_of(Hold::Final, teacher), &head->output()};
}

void Interpreter::share_final(const Action& action, const Layout& layout) {
  const int last = layout.stages - 1;
  const Slab slab{Hold::Final, action.stage, action.microbatch};
  const Tensor tensor = tensor_of(Hold::Final, action);
  if (action.stage < last) return arriving_[slab].push_back(receive(*ctx_, tensor, on_.mesh->pipeline, last, kFinalTag));
  for (const Action& partner : partners_of(action, layout))
    leaving_[{slab.what, live_.at(slab)}].push_back(send(*ctx_, tensor, on_.mesh->pipeline, partner.stage, kFinalTag));
}

void Interpreter::backward(const Action& action, const Layout& layout) {
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  const Tensor gradient = tensor_of(Hold::Gradient, action);
  if (action.index <= 0 && layout.runs_forward(action.stage + 1, action.microbatch)) {
    await_arrival({Hold::Gradient, action.stage, action.microbatch});
  } else if (action.index <= 0) {
    fill_zero(*ctx_, gradient);  // the gradient of a microbatch's last stage comes from its exits alone
  }
  std::vector<TapGradient> taps;
  for (std::size_t e = 0; e < layout.exits.size(); ++e) {
    const ExitPlace& place = layout.exits[e];
    if (place.stage == action.stage && place.gradient && layout.meets(static_cast<int>(e), action.microbatch))
      taps.push_back({place.tap, tensor_of(Hold::TapGradient, action, static_cast<int>(e))});
  }
  const Units segment = units_of(action, layout, stage_of(action).segment(action.index));
  KeptForward& kept = *kept_.at(stash);
  if (layout.split_backward) {
    const Pool& pool = (*on_.pools)[static_cast<std::size_t>(Hold::Deferred)];
    kept.deferred = Arena(pool.memory(live_.at({Hold::Deferred, action.stage, action.microbatch})), pool.slab_bytes(), "deferred");
    kept.slot.defer(kept.deferred);
  }
  stage_of(action).backward(*ctx_, gradient, taps, segment, kept.slot);
  if (segment.begin > stage_of(action).units().begin) return;
  OFFRAMP_CHECK(kept.slot.empty(), "[interpreter] {} left tensors in its slot", to_text(action));
  if (!layout.split_backward) kept_.erase(stash);
}

void Interpreter::weight_gradient(const Action& action, const Layout& layout) {
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  const Units units = stage_of(action).segment(action.index);
  kept_.at(stash)->slot.run_deferred(*ctx_, units.begin, units.end);
  if (action == last_weight_gradient(action.stage, action.microbatch, layout)) kept_.erase(stash);
}

void Interpreter::reduce_tied(const Action& action, const StepInput& input) {
  const TiedHere& here = on_.flat->tied_at(action.index, action.stage);
  if (input.gradient_scale.defined()) {
    scale(*ctx_, here.grad, input.gradient_scale);
    for (const Tensor& writer : here.writers) scale(*ctx_, writer, input.gradient_scale);
  }
  reduce_tie(*ctx_, *on_.flat, (*on_.ties)[static_cast<std::size_t>(action.index)], here, on_.mesh->pipeline);
}

// A tie's bucket was scaled before it was summed.
void Interpreter::scale_gradients(const Bucket& bucket, const StepInput& input) {
  if (bucket.tie < 0 && input.gradient_scale.defined()) scale(*ctx_, on_.flat->gradients(bucket.range), input.gradient_scale);
}

// What all tensor ranks hold has, with sequence parallelism, on each of them only the gradient of its own rows.
void Interpreter::reduce_gradients(const Action& action, const StepInput& input) {
  const std::size_t number = on_.flat->bucket_of(action.stage, action.index);
  const Bucket& bucket = on_.flat->buckets()[number];
  Trace* const trace = input.trace;
  scale_gradients(bucket, input);
  const Tensor all = on_.flat->gradients(bucket.range);
  if (bucket.replicated && on_.sequence_parallel) await(all_reduce(*ctx_, all, on_.mesh->tensor));
  const bool shards = on_.flat->shards_state();
  if (trace) trace->push_back({to_text(action), 1 + static_cast<int>(number), now(), 0, static_cast<std::int64_t>(all.bytes())});
  reductions_.push_back({shards ? reduce_scatter(*ctx_, on_.flat->gradients(on_.flat->shard(bucket)), all, on_.mesh->data)
                                : all_reduce(*ctx_, all, on_.mesh->data),
                         trace ? trace->size() - 1 : 0});
}

void Interpreter::finish(Trace* trace) {
  for (Reduction& reduction : reductions_) {
    reduction.work.wait(*ctx_);
    if (trace) look_for_ends(*trace);
  }
  for (auto& [slab, works] : leaving_)
    for (Work& work : works) work.wait(*ctx_);
  reductions_.clear();
  leaving_.clear();
}

void Interpreter::look_for_ends(Trace& trace) {
  for (Reduction& reduction : reductions_) {
    if (reduction.ended || !reduction.work.done()) continue;
    reduction.ended = true;
    trace[reduction.event].end = now();
  }
}

}  // namespace offramp
