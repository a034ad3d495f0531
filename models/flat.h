// Flat: all parameters of one rank in a few buffers that share one set of offsets (in elements, each parameter at a multiple of 16).
//
//   values (the working type) | gradients f32 | masters f32 (where the working type is not) | optimizer state f32
//
// Order: of each stage, the highest first: matrices in backward order | what every tensor rank holds | other vectors; then of all stages:
// tied tensors, one bucket each | guests | further writers. All but the last two are *owned*: updated here, with optimizer state. Frozen
// tensors come last: they have values alone, each logical tensor once a rank, whoever reads it. So a
// bucket of the data-parallel reduction is a slice, never a copy, and so is the part of it that one data rank keeps: its *shard*. With
// sharded state (ZeRO-1, Rajbhandari et al., 2020) masters and optimizer state exist for this rank's shards alone, one after the other.
//
// A logical tensor that several stages hold is owned by the lowest; the others' copies are *guests*: a value and a gradient of
// their own, summed into the owner's once a step. Where two kinds of writer (Parameter::writer) share a tensor on one stage, the
// first has the value, and each further *writer* has only an accumulator. Parameters of one stage, name and writer kind are one. A rank
// with several stages has a tensor's value once, at the lowest of its stages that hold it, and accumulators on each.
// A tensor may be tied part by part: the owner has it whole, others (and a further writer of its own stage) one part each.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/parameter.h"
#include "tensor/arena.h"
#include "tensor/check.h"
#include "tensor/ops.h"

namespace offramp {

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};
constexpr Range operator&(Range a, Range b) { return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end}; }

// Gradients that are reduced together, once the last backward's `segment` has run or `tie` has been summed; one of them is -1.
struct Bucket {
  Range range;
  int segment = -1, tie = -1;
  bool replicated = false;  // every tensor rank holds these parameters
  int stage = 0;
};
// Elements in a row that this rank updates, alike.
struct Update {
  Range range;
  bool decay = false;
  double lr_scale = 1;
  int clip_group = 0;
};

// Elements of a tensor that are tied by themselves.
struct TiedPart {
  int tie = -1;
  Range elements;
};
// One parameter of a stage, as Flat is told of it.
struct FlatEntry {
  Parameter* parameter = nullptr;
  int segment = 0;                // of the stage's last backward that completes its gradient
  int tie = -1;                   // number of its tie, if it is tied; the last one, if its parts are
  bool owner = true;              // of a tie: this stage owns the tensor
  std::vector<TiedPart> parts{};  // of the owner, if its parts are tied
  std::int64_t within = -1;       // >= 0: a part, from this element on, of what this stage has whole: only its accumulator is its own
  int stage = 0;
};
// What one stage holds of a tie.
struct TiedHere {
  int tie = -1, stage = 0;
  bool owner = false;           // this stage owns the tensor
  bool holds = false;           // the value is this stage's own; false: that of a lower stage of this rank
  Tensor value, grad;           // of the first writer
  std::vector<Tensor> writers;  // further accumulators, in order of summation
};

struct FlatOptions {
  DType values = DType::f32;
  std::vector<std::string> optimizer_state;
  int data_rank = 0, data_size = 1;
  bool shard_state = false;
};

// The buckets that a Flat of these entries has; takes no memory, so that any rank can ask for any other.
std::vector<Bucket> plan_buckets(const std::vector<FlatEntry>& entries);

class Flat {
 public:
  // Binds value and grad of every entry. Entries come in backward order: stages from the highest; heads, then units from the last.
  Flat(Arena& arena, const std::vector<FlatEntry>& entries, const FlatOptions& options);

  Tensor values(Range range) const { return values_.narrow(0, range.begin, range.count()); }
  Tensor gradients(Range range) const { return gradients_.narrow(0, range.begin, range.count()); }
  // Of a range within one of kept().
  Tensor master(Range range) const;                          // undefined where the values are f32 themselves
  Tensor exact(Range range) const;                           // f32: masters, or the values where these are f32
  Tensor state(const std::string& name, Range range) const;  // "exp_avg"
  Tensor all_gradients() const { return gradients_; }

  std::span<const Bucket> buckets() const { return buckets_; }
  std::size_t bucket_of(int stage, int index) const;       // number in buckets() of a stage's bucket
  Range shard(const Bucket& bucket, int data_rank) const;  // equal parts of a bucket
  Range shard(const Bucket& bucket) const { return shard(bucket, options_.data_rank); }
  bool shards_state() const { return options_.shard_state; }
  std::span<const Range> kept() const { return kept_; }  // what this rank has masters and state of, in their order
  std::span<const Update> updates() const { return updates_; }
  std::span<Parameter* const> owned() const { return owned_; }  // each logical tensor's owner, in flat order
  std::span<Parameter* const> frozen() const { return frozen_; }
  std::span<Parameter* const> holders() const { return holders_; }  // every parameter with a value of its own: owned, guests, frozen
  std::span<const TiedHere> tied() const { return tied_; }          // by tie, then from the highest stage
  const TiedHere& tied_at(int tie, int stage) const;
  Range place(const Parameter& parameter) const;  // of one with a value of its own

  // Gives every parameter its initial value. The gradients are used as memory.
  void initialize(Context& ctx, std::uint64_t seed, const NameOf& origin = {});

  std::size_t value_bytes() const { return values_.bytes(); }
  std::size_t gradient_bytes() const { return gradients_.bytes(); }
  std::size_t state_bytes() const;  // masters included

 private:
  Tensor of_state(const Tensor& buffer, Range range) const;

  FlatOptions options_;
  Tensor values_, gradients_, masters_;
  std::map<std::string, Tensor> state_;
  std::vector<Bucket> buckets_;
  std::vector<Range> kept_;
  std::vector<Update> updates_;
  std::vector<Parameter*> owned_, frozen_, holders_;
  std::map<const Parameter*, Range> places_;
  std::vector<TiedHere> tied_;
};

}  // namespace offramp
