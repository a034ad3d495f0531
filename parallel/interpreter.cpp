#include "parallel/interpreter.h"

#include <chrono>

#include "parallel/actions.h"
#include "tensor/check.h"

namespace offramp {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Nothing tells microbatches apart: a valid schedule sends and receives them in the same order.
Tag tag_of(const Action& action) {
  const bool activation = action.op == Op::SendActivation || action.op == Op::RecvActivation;
  return activation ? kActivationTag : kGradientTag;
}

double& phase_of(Op op, PhaseTimes& times) {
  switch (op) {
    case Op::Forward:
      return times.forward;
    case Op::Backward:
    case Op::Recompute:
    case Op::WeightGrad:
      return times.backward;
    case Op::Exit:
      return times.exits;
    default:
      return times.communication;
  }
}

Draws draws_of(const MicrobatchInput& microbatch, const StepInput& input) {
  Draws draws = input.draws;
  draws.first_sample = microbatch.first_sample;
  return draws;
}

}  // namespace

void Interpreter::run(const Program& program, const Layout& layout, const StepInput& input, PhaseTimes& times) {
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
  finish(input.trace);
  times.communication += now() - begin;
  OFFRAMP_CHECK(live_.empty() && kept_.empty() && arriving_.empty(), "[interpreter] {} slabs were left behind", live_.size());
}

void Interpreter::execute(const Action& action, const Layout& layout, const StepInput& input) {
  switch (action.op) {
    case Op::Forward:
      return forward(action, layout, input);
    case Op::Exit:
      return exit(action, layout, input);
    case Op::Backward:
      return backward(action, layout);
    case Op::Recompute:
      return recompute(action, input);
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
    case Op::ReduceTied:
      return reduce_tied(action);
    case Op::ReduceGradients:
      return reduce_gradients(action, input.trace);
    default:
      broken("an action that can be run", fmt::format("[interpreter] {}", to_text(action)));
  }
}

Tensor Interpreter::input_of(const Action& action, const MicrobatchInput& microbatch) const {
  return action.stage > 0 ? tensor_of(Hold::Input, action) : microbatch.ids;
}

std::unique_ptr<Interpreter::KeptForward> Interpreter::keep_forward(const Action& action, const StepInput& input) const {
  const MicrobatchInput& microbatch = input.microbatches[static_cast<std::size_t>(action.microbatch)];
  const Pool& pool = (*on_.pools)[static_cast<std::size_t>(Hold::Stash)];
  const int slab = live_.at({Hold::Stash, action.stage, action.microbatch});
  return std::make_unique<KeptForward>(pool.memory(slab), pool.slab_bytes(), on_.keep, microbatch.sequences, draws_of(microbatch, input));
}

void Interpreter::forward(const Action& action, const Layout& layout, const StepInput& input) {
  const MicrobatchInput& microbatch = input.microbatches[static_cast<std::size_t>(action.microbatch)];
  const Slab key{Hold::Input, action.stage, action.microbatch};
  if (action.stage > 0) {
    await(std::move(arriving_.at(key)));
    arriving_.erase(key);
  }
  const auto destination = [&](int unit) {
    if (action.stage + 1 < layout.stages && unit + 1 == on_.stage.units().end) return tensor_of(Hold::Output, action);
    const bool tapped = live_.contains({Hold::Tap, action.stage, action.microbatch, static_cast<std::int16_t>(unit)});
    return tapped ? tensor_of(Hold::Tap, action, unit) : Tensor{};
  };
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  if (!live_.contains(stash)) {
    Slot slot(*ctx_->scratch, Keep::nothing, microbatch.sequences, draws_of(microbatch, input));
    return on_.stage.forward(*ctx_, input_of(action, microbatch), destination, slot);
  }
  auto kept = keep_forward(action, input);
  on_.stage.forward(*ctx_, input_of(action, microbatch), destination, kept->slot);
  kept_[stash] = std::move(kept);
}

// The same once more, to the same bits. What left the stage, and what exits read, is there already: this time it goes to the stash.
void Interpreter::recompute(const Action& action, const StepInput& input) {
  const MicrobatchInput& microbatch = input.microbatches[static_cast<std::size_t>(action.microbatch)];
  auto kept = keep_forward(action, input);
  on_.stage.forward(
      *ctx_, input_of(action, microbatch), [](int) { return Tensor{}; }, kept->slot);
  kept_[{Hold::Stash, action.stage, action.microbatch}] = std::move(kept);
}

void Interpreter::exit(const Action& action, const Layout& layout, const StepInput& input) {
  const MicrobatchInput& microbatch = input.microbatches[static_cast<std::size_t>(action.microbatch)];
  const ExitPlace& place = layout.exits[static_cast<std::size_t>(action.index)];
  Head& head = (*on_.heads)[static_cast<std::size_t>(action.index)];
  HeadIn in;
  in.x = place.at_output ? tensor_of(Hold::Output, action) : tensor_of(Hold::Tap, action, place.tap);
  in.labels = microbatch.labels;
  in.scale = input.exit_scale[static_cast<std::size_t>(action.index)];
  in.draws = draws_of(microbatch, input);
  const bool gradient = layout.backward && place.gradient;
  const Tensor d_tap = gradient ? tensor_of(Hold::TapGradient, action, action.index) : Tensor{};
  const Tensor sums = input.sums.narrow(0, action.index, 1).reshape({kLossSums});
  head.exit(*ctx_, d_tap, sums, in, microbatch.sequences, layout.backward);
}

void Interpreter::backward(const Action& action, const Layout& layout) {
  const bool whole = action.index < 0;
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  const Tensor gradient = tensor_of(Hold::Gradient, action);
  if (action.index <= 0 && action.stage + 1 < layout.stages) {
    const Slab key{Hold::Gradient, action.stage, action.microbatch};
    await(std::move(arriving_.at(key)));
    arriving_.erase(key);
  } else if (action.index <= 0) {
    fill_zero(*ctx_, gradient);  // the last stage's gradient comes from its exits alone
  }
  std::vector<TapGradient> taps;
  for (std::size_t e = 0; e < layout.exits.size(); ++e) {
    const ExitPlace& place = layout.exits[e];
    if (place.stage == action.stage && place.gradient)
      taps.push_back({place.tap, tensor_of(Hold::TapGradient, action, static_cast<int>(e))});
  }
  const Units segment = whole ? on_.stage.units() : on_.segments[static_cast<std::size_t>(action.index)];
  KeptForward& kept = *kept_.at(stash);
  if (layout.split_backward) {
    const Pool& pool = (*on_.pools)[static_cast<std::size_t>(Hold::Deferred)];
    kept.deferred = Arena(pool.memory(live_.at({Hold::Deferred, action.stage, action.microbatch})), pool.slab_bytes(), "deferred");
    kept.slot.defer(kept.deferred);
  }
  on_.stage.backward(*ctx_, gradient, taps, segment, kept.slot);
  if (segment.begin > on_.stage.units().begin) return;
  OFFRAMP_CHECK(kept.slot.empty(), "[interpreter] {} left tensors in its slot", to_text(action));
  if (!layout.split_backward) kept_.erase(stash);
}

void Interpreter::weight_gradient(const Action& action, const Layout& layout) {
  const Slab stash{Hold::Stash, action.stage, action.microbatch};
  const Units units = action.index < 0 ? on_.stage.units() : on_.segments[static_cast<std::size_t>(action.index)];
  kept_.at(stash)->slot.run_deferred(*ctx_, units.begin, units.end);
  if (action == last_weight_gradient(action.stage, action.microbatch, layout)) kept_.erase(stash);
}

void Interpreter::reduce_tied(const Action& action) {
  for (const TiedHere& here : on_.flat->tied())
    if (here.tie == action.index)
      reduce_tie(*ctx_, here, (*on_.ties)[static_cast<std::size_t>(here.tie)], action.stage, on_.mesh->pipeline);
}

// What all tensor ranks hold has, with sequence parallelism, on each of them only the gradient of its own rows.
void Interpreter::reduce_gradients(const Action& action, Trace* trace) {
  const Bucket& bucket = on_.flat->buckets()[static_cast<std::size_t>(action.index)];
  const Tensor all = on_.flat->gradients(bucket.range);
  if (bucket.replicated && on_.sequence_parallel) await(all_reduce(*ctx_, all, on_.mesh->tensor));
  const bool shards = on_.flat->shards_state();
  if (trace) trace->push_back({to_text(action), 1 + action.index, now(), 0, static_cast<std::int64_t>(all.bytes())});
  reductions_.push_back({shards ? reduce_scatter(*ctx_, on_.flat->gradients(on_.flat->shard(bucket)), all, on_.mesh->data)
                                : all_reduce(*ctx_, all, on_.mesh->data),
                         trace ? trace->size() - 1 : 0});
}

void Interpreter::finish(Trace* trace) {
  for (Reduction& reduction : reductions_) {
    reduction.work.wait(*ctx_);
    if (trace) look_for_ends(*trace);
  }
  for (auto& [slab, work] : leaving_) work.wait(*ctx_);
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

void Interpreter::take(const Slab& slab) {
  const auto leaves = [&](int number) { return leaving_.contains({slab.what, number}); };
  const int number = (*on_.pools)[static_cast<std::size_t>(slab.what)].take(leaves);
  OFFRAMP_CHECK(live_.emplace(slab, number).second, "[interpreter] a slab of {} was taken twice", name_of(slab.what));
  const auto sending = leaving_.find({slab.what, number});
  if (sending == leaving_.end()) return;
  await(std::move(sending->second));
  leaving_.erase(sending);
}

void Interpreter::give(const Slab& slab) {
  const auto it = live_.find(slab);
  OFFRAMP_CHECK(it != live_.end(), "[interpreter] a slab of {} was given back twice", name_of(slab.what));
  (*on_.pools)[static_cast<std::size_t>(slab.what)].give(it->second);
  live_.erase(it);
}

Tensor Interpreter::tensor_of(Hold what, const Action& action, int index) const {
  const auto it = live_.find({what, action.stage, action.microbatch, static_cast<std::int16_t>(index)});
  OFFRAMP_CHECK(it != live_.end(), "[interpreter] {} needs a slab of {} that is not there", to_text(action), name_of(what));
  const Pool& pool = (*on_.pools)[static_cast<std::size_t>(what)];
  return Tensor(pool.memory(it->second), on_.activations, on_.precision);
}

void Interpreter::await(Work&& work) {
  const double begin = now();
  work.wait(*ctx_);
  waited_ += now() - begin;
}

void Interpreter::send_slab(const Action& action, Hold what, int to) {
  const Slab slab{what, action.stage, action.microbatch};
  leaving_[{what, live_.at(slab)}] = send(*ctx_, tensor_of(what, action), on_.mesh->pipeline, to, tag_of(action));
}

void Interpreter::receive_slab(const Action& action, Hold what, int from) {
  const Slab slab{what, action.stage, action.microbatch};
  arriving_[slab] = receive(*ctx_, tensor_of(what, action), on_.mesh->pipeline, from, tag_of(action));
}

}  // namespace offramp
