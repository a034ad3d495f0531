#include "models/slot.h"

#include "tensor/check.h"

namespace offramp {

Tensor Slot::pop() {
  OFFRAMP_CHECK(!saved_.empty(), "[slot] a backward pops more than its forward pushed (keeps: {})", keeps());
  const Tensor last = saved_.back();
  saved_.pop_back();
  return last;
}

Tensor Slot::peek(std::size_t below) const {
  OFFRAMP_CHECK(below < saved_.size(), "[slot] {} tensors below the last of {}", below, saved_.size());
  return saved_[saved_.size() - 1 - below];
}

void Slot::gradient(Context& ctx, WeightGradient& leaf, Tensor dy, Tensor x) {
  if (!deferring_) return leaf.weight_gradient(ctx, dy, x);
  deferred_.push_back({unit_, &leaf, outliving(ctx, dy), outliving(ctx, x)});
}

// What lies in the slot's own memory stays there until the weight gradient; gradients on their way, and scratch, do not.
Tensor Slot::outliving(Context& ctx, Tensor t) {
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const std::uintptr_t begin = address(arena_->memory()), at = address(t.data);
  if (begin <= at && at < begin + arena_->used()) return t;
  const Tensor kept = deferring_->tensor(t.shape, t.dtype);
  copy(ctx, kept, t);
  return kept;
}

void Slot::run_deferred(Context& ctx, int begin, int end) {
  for (const Deferred& d : deferred_)
    if (begin <= d.unit && d.unit < end) d.leaf->weight_gradient(ctx, d.dy, d.x);
  std::erase_if(deferred_, [&](const Deferred& d) { return begin <= d.unit && d.unit < end; });
}

}  // namespace offramp
