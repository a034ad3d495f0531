// Flat: all parameters of one rank in a few buffers that share one set of offsets (in elements, each parameter at a multiple of 16).
//
//   values | gradients | optimizer state
//
// Order: matrices in backward order | vectors | tied tensors, one bucket each | guests | further writers. The first three are
// *owned*: updated here, with optimizer state. So a bucket of the data-parallel reduction is a slice, never a copy, and weight
// decay is a range.
//
// A logical tensor that several stages hold is owned by the lowest; the others' copies are *guests*: a value and a gradient of
// their own, summed into the owner's once a step. Where two kinds of writer (Parameter::writer) share a tensor on one stage, the
// first has the value, and each further *writer* has only an accumulator. Parameters of one stage, name and writer kind are one.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/parameter.h"
#include "tensor/arena.h"
#include "tensor/check.h"

namespace offramp {

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};
// Gradients that are reduced together, once the last backward's `segment` has run or `tie` has been summed; one of them is -1.
struct Bucket {
  Range range;
  int segment = -1, tie = -1;
};
// Owned parameters in a row that are updated alike.
struct UpdateRange {
  Range range;
  bool decay = false;
  double lr_scale = 1;
};

// One parameter of a stage, as Flat is told of it.
struct FlatEntry {
  Parameter* parameter = nullptr;
  int segment = 0;    // of the stage's last backward that completes its gradient
  int tie = -1;       // number of its tie, if it is tied
  bool owner = true;  // of a tie: this stage owns the tensor
};
// What this stage holds of a tie.
struct TiedHere {
  int tie = -1;
  bool owner = false;
  Tensor value, grad;           // of the first writer
  std::vector<Tensor> writers;  // further accumulators, in order of summation
};

// The buckets that a Flat of these entries has; takes no memory, so that any rank can ask for any other.
std::vector<Bucket> plan_buckets(const std::vector<FlatEntry>& entries);

class Flat {
 public:
  // Binds value and grad of every entry. Entries come in backward order: heads, then units from the last to the first.
  Flat(Arena& arena, std::vector<FlatEntry> entries, std::span<const std::string> optimizer_state);

  Tensor values(Range range) const { return values_.narrow(0, range.begin, range.count()); }
  Tensor gradients(Range range) const { return gradients_.narrow(0, range.begin, range.count()); }
  Tensor state(const std::string& name, Range range) const;  // "exp_avg"; of owned ranges
  Tensor all_gradients() const { return gradients_; }

  std::span<const Bucket> buckets() const { return buckets_; }
  std::span<const UpdateRange> updates() const { return updates_; }
  std::span<Parameter* const> owned() const { return owned_; }    // each logical tensor's owner, in flat order
  std::span<Parameter* const> holders() const { return holders_; }  // every parameter with a value of its own: owned and guests
  std::span<const TiedHere> tied() const { return tied_; }

  std::size_t value_bytes() const { return values_.bytes(); }
  std::size_t gradient_bytes() const { return gradients_.bytes(); }
  std::size_t state_bytes() const;

 private:
  Tensor values_, gradients_;
  std::map<std::string, Tensor> state_;
  std::vector<Bucket> buckets_;
  std::vector<UpdateRange> updates_;
  std::vector<Parameter*> owned_, holders_;
  std::vector<TiedHere> tied_;
};

}  // namespace offramp
