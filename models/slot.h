// Slot: what one microbatch on one stage (or in one exit) carries from its forward to its backward.
//
// forward pushes views of what its backward will need, backward pops them in reverse. Memory comes from the slot's arena: a slab
// that lives until the backward, or scratch (in an exit, whose forward and backward are one action, and in evaluation): so take from
// the slot first, and open scopes of scratch after.
// It also says which subnet its microbatch runs: how much of an axis inside a unit is used. How wide the residual stream is, tensors
// tell themselves.
// A weight gradient is handed to the slot as a pair of tensors and runs at once; where a schedule splits its backward, the slot keeps
// the pair instead until run_deferred(), and nothing in the units changes.
#pragma once
#include <span>
#include <vector>

#include "models/subnet.h"
#include "tensor/ops.h"

namespace offramp {

// Evaluation, and a forward that will run again; training; training, where attention's output is made again in the backward.
enum class Keep : std::uint8_t { nothing, everything, all_but_attention };

// Who this microbatch is, for random omissions. Off (the default, and in evaluation): nothing falls.
struct Draws {
  bool on = false;
  std::uint64_t seed = 0;
  std::int64_t first_sample = 0;       // of the whole job's samples; those of a microbatch follow each other
  std::span<const float> layer_rates;  // LayerSkip's chance to fall of each layer; empty: none does
};

class WeightGradient {  // a leaf whose weight gradient is a function of two tensors
 public:
  virtual void weight_gradient(Context&, Tensor dy, Tensor x) = 0;

 protected:
  ~WeightGradient() = default;
};

class Slot {
 public:
  Slot(Arena& arena, Keep keep, Sequences sequences, Draws draws = {}, const Subnet& subnet = {})
      : arena_(&arena), keep_(keep), sequences_(sequences), draws_(draws), subnet_(subnet) {}

  const Sequences& sequences() const { return sequences_; }  // which token sees which, and where it stands
  const Draws& draws() const { return draws_; }
  const Subnet& subnet() const { return subnet_; }
  bool keeps() const { return keep_ != Keep::nothing; }
  bool makes_attention_again() const { return keep_ == Keep::all_but_attention; }

  Tensor tensor(Shape shape, DType dtype) { return arena_->tensor(shape, dtype); }
  void push(Tensor t) {
    if (keeps()) saved_.push_back(t);
  }
  Tensor pop();                          // throws when nothing is left
  Tensor peek(std::size_t below) const;  // what pop() would give after `below` others
  void gradient(Context& ctx, WeightGradient& leaf, Tensor dy, Tensor x);
  bool empty() const { return saved_.empty(); }

  // From now on weight gradients are kept for run_deferred(): what of them will not outlive the backward is copied to `arena`.
  void defer(Arena& arena) { deferring_ = &arena; }
  bool defers() const { return deferring_ != nullptr; }
  void begin_unit(int unit) { unit_ = unit; }  // which one the next gradients belong to
  // Those of the units in [begin, end), in the order in which they came.
  void run_deferred(Context& ctx, int begin, int end);

 private:
  struct Deferred {
    int unit;
    WeightGradient* leaf;
    Tensor dy, x;
  };
  Tensor outliving(Context& ctx, Tensor t);

  Arena* arena_;
  Keep keep_;
  Sequences sequences_;
  Draws draws_;
  Subnet subnet_;
  std::vector<Tensor> saved_;
  Arena* deferring_ = nullptr;
  int unit_ = 0;
  std::vector<Deferred> deferred_;
};

}  // namespace offramp
