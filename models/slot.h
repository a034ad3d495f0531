// Slot: what one microbatch on one stage (or in one exit) carries from its forward to its backward.
//
// forward pushes views of what its backward will need, backward pops them in reverse. Memory comes from the slot's arena: a slab
// that lives until the backward, or scratch (in an exit, whose forward and backward are one action, and in evaluation).
// A weight gradient is handed to the slot as a pair of tensors and runs at once; a schedule that splits its backward will keep
// the pair instead, and nothing in the units changes.
#pragma once
#include <vector>

#include "tensor/ops.h"

namespace offramp {

enum class Keep : std::uint8_t { nothing, everything };  // evaluation; training

class WeightGradient {  // a leaf whose weight gradient is a function of two tensors
 public:
  virtual void weight_gradient(Context&, Tensor dy, Tensor x) = 0;

 protected:
  ~WeightGradient() = default;
};

class Slot {
 public:
  Slot(Arena& arena, Keep keep, Sequences sequences) : arena_(&arena), keep_(keep), sequences_(sequences) {}

  const Sequences& sequences() const { return sequences_; }  // which token sees which, and where it stands
  bool keeps() const { return keep_ == Keep::everything; }

  Tensor tensor(Shape shape, DType dtype = DType::f32) { return arena_->tensor(shape, dtype); }
  void push(Tensor t) {
    if (keeps()) saved_.push_back(t);
  }
  Tensor pop();  // throws when nothing is left
  void gradient(Context& ctx, WeightGradient& leaf, Tensor dy, Tensor x) { leaf.weight_gradient(ctx, dy, x); }
  bool empty() const { return saved_.empty(); }

 private:
  Arena* arena_;
  Keep keep_;
  Sequences sequences_;
  std::vector<Tensor> saved_;
};

}  // namespace offramp
