// Stage: the units that one pipeline rank runs in a row, and the taps between them. It knows slots, not schedules.
#pragma once
#include <functional>

#include "parallel/placement.h"

namespace offramp {

// The gradient of an exit with respect to the output of `unit`.
struct TapGradient {
  int unit = 0;
  Tensor value;  // [rows, h]
};

class Stage {
 public:
  Stage(Model& model, Units units, std::vector<Units> segments = {}) : model_(&model), units_(units), segments_(std::move(segments)) {}
  Units units() const { return units_; }
  // Of the last microbatch's backward; -1: all units.
  Units segment(int index) const { return index < 0 ? units_ : segments_[static_cast<std::size_t>(index)]; }

  // Where a unit's output goes that outlives the stage's slot: a tap, or what is sent on. Undefined: the stage decides. Behind the last
  // unit of all it is asked for what the final head reads, where exits learn from that; undefined: they do not now.
  using Destination = std::function<Tensor(int unit)>;
  // Runs the units up to `end`, all or fewer. x: ids [n] on the first stage, else this rank's rows of them [rows, h], h the width that the
  // slot's subnet has.
  void forward(Context& ctx, Tensor x, const Destination& destination, Slot& slot, int end) const;
  void forward(Context& ctx, Tensor x, const Destination& destination, Slot& slot) const { forward(ctx, x, destination, slot, units_.end); }
  // Walks `segment` of the stage backwards. gradient [rows, h] is that of the segment's output and becomes that of its input, in
  // place; every tap's gradient is added at its unit, in the order given.
  void backward(Context& ctx, Tensor gradient, std::span<const TapGradient> taps, Units segment, Slot& slot) const;

 private:
  Module& unit(int u) const { return *model_->units[static_cast<std::size_t>(u)].module; }
  Model* model_;
  Units units_;
  std::vector<Units> segments_;
};

}  // namespace offramp
