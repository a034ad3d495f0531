// What lives between actions, and the messages that leave from it and arrive in it.
#include <chrono>

#include "parallel/interpreter.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// A stream a boundary and direction, named by the stage above. Nothing tells microbatches apart: a valid schedule sends and receives them
// in the same order.
int tag_of(const Action& action) {
  const bool activation = action.op == Op::SendActivation || action.op == Op::RecvActivation;
  const bool above = action.op == Op::RecvActivation || action.op == Op::SendGradient;
  return kStageTags + 2 * (above ? action.stage : action.stage + 1) + (activation ? 0 : 1);
}

}  // namespace

double Interpreter::now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void Interpreter::take(const Slab& slab) {
  const auto leaves = [&](int number) { return leaving_.contains({slab.what, number}); };
  const int number = (*on_.pools)[static_cast<std::size_t>(slab.what)].take(leaves);
  OFFRAMP_CHECK(live_.emplace(slab, number).second, "[interpreter] a slab of {} was taken twice", name_of(slab.what));
  const auto sending = leaving_.find({slab.what, number});
  if (sending == leaving_.end()) return;
  for (Work& work : sending->second) await(std::move(work));
  leaving_.erase(sending);
}

void Interpreter::give(const Slab& slab) {
  const auto it = live_.find(slab);
  OFFRAMP_CHECK(it != live_.end(), "[interpreter] a slab of {} was given back twice", name_of(slab.what));
  (*on_.pools)[static_cast<std::size_t>(slab.what)].give(it->second);
  live_.erase(it);
}

Tensor Interpreter::tensor_of(Hold what, const Action& action, int index) const {
  const Shape shape{on_.activations[0], widths_[static_cast<std::size_t>(action.microbatch) % widths_.size()]};
  return tensor_of({what, action.stage, action.microbatch, static_cast<std::int16_t>(index)}, shape, on_.precision);
}

Tensor Interpreter::tensor_of(const Slab& slab, Shape shape, DType dtype) const {
  const auto it = live_.find(slab);
  OFFRAMP_CHECK(it != live_.end(), "[interpreter] no slab of {} is there for stage {}, microbatch {}", name_of(slab.what), slab.stage,
                slab.microbatch);
  const Pool& pool = (*on_.pools)[static_cast<std::size_t>(slab.what)];
  return Tensor(pool.memory(it->second), shape, dtype);
}

void Interpreter::await(Work&& work) {
  const double begin = now();
  work.wait(*ctx_);
  waited_ += now() - begin;
}

void Interpreter::await_arrival(const Slab& slab) {
  for (Work& work : arriving_.at(slab)) await(std::move(work));
  arriving_.erase(slab);
}

void Interpreter::send_slab(const Action& action, Hold what, int to) {
  const Slab slab{what, action.stage, action.microbatch};
  leaving_[{what, live_.at(slab)}].push_back(
      send(*ctx_, tensor_of(what, action), on_.mesh->pipeline, to % on_.mesh->degrees.pipeline, tag_of(action)));
}

void Interpreter::receive_slab(const Action& action, Hold what, int from) {
  const Slab slab{what, action.stage, action.microbatch};
  arriving_[slab].push_back(receive(*ctx_, tensor_of(what, action), on_.mesh->pipeline, from % on_.mesh->degrees.pipeline, tag_of(action)));
}

}  // namespace offramp
