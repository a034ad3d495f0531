// The step: from gradients in a rank's flat buffers to weights, in two functions that the trainer puts one reduction between.
//
//   gradient_squares(ctx, flat, names, part, squares);     // one sum a logical tensor
//   ... squares summed over all ranks ...
//   const auto norms = group_norms(squares, names);        // every parameter once, in the order of names
//   set_scalars(scalars of group g, {lr, clip_factor(norms[g], limit), updates}, config);   // for every g
//   apply_update(ctx, flat, config, scalars);
#pragma once
#include <map>
#include <string>
#include <vector>

#include "models/flat.h"
#include "models/model.h"
#include "optim/optimizer.h"

namespace offramp {

// Every logical tensor of a model that learns, numbered in the order of their names: the same on all ranks and at all layouts.
class LogicalNames {
 public:
  explicit LogicalNames(Model& model);
  std::int64_t size() const { return static_cast<std::int64_t>(names_.size()); }
  std::int64_t number(const std::string& name) const { return number_.at(name); }
  const std::string& name(std::int64_t number) const { return names_[static_cast<std::size_t>(number)]; }
  int clip_group(std::int64_t number) const { return groups_[static_cast<std::size_t>(number)]; }
  int clip_groups() const { return clip_groups_; }

 private:
  std::vector<std::string> names_;
  std::vector<int> groups_;
  int clip_groups_ = 1;
  std::map<std::string, std::int64_t> number_;
};

// squares [logical tensors] f64 += the squares of this rank's part of the gradients, in double: data ranks share them by shards, and
// what every tensor rank holds counts on the first.
void gradient_squares(Context& ctx, const Flat& flat, const LogicalNames& names, int tensor_rank, Tensor squares);
// The square root of all squares, added in order; and of those of each group that is clipped together.
double gradient_norm(Tensor squares);
std::vector<double> group_norms(Tensor squares, const LogicalNames& names);
// min(1, limit / (norm + 1e-6)); limit 0: no clipping.
double clip_factor(double norm, double limit);

// Names of the state an optimizer keeps for every owned element.
std::vector<std::string> optimizer_state(const OptimizerConfig& config);
struct StepScalars {
  double lr = 0, clip = 1;
  std::int64_t updates = 1;  // this one included: Adam's t
};
void set_scalars(Tensor scalars, const StepScalars& step, const OptimizerConfig& config);  // [4] f32 of one group
// scalars [groups, 4] f32.
void apply_update(Context& ctx, const Flat& flat, const OptimizerConfig& config, Tensor scalars);

}  // namespace offramp
