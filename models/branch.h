// What both halves of a transformer layer have in common: a branch that begins with a norm, ends in a row-split matrix, and joins the
// residual stream: with dropout, and for samples that LayerSkip leaves out of the layer (arXiv 2404.16710, section 4.1) not at all.
#pragma once
#include "models/model.h"
#include "models/names.h"

namespace offramp {

class Branch {
 public:
  Branch(const ModelConfig& config, const UnitOptions& options, const std::string& name);

  std::int64_t tokens(const Tensor& rows) const;  // of the microbatch that these are this rank's rows of
  Linear::Onto onto(const Slot& slot, Tensor rows, Tensor residual) const;
  // Every sample of this microbatch falls: the unit is the identity, and nothing of it need run.
  bool falls_whole(const Context& ctx, const Slot& slot, const Tensor& rows) const;

 private:
  Drop layer_drop(const Slot& slot) const;

  float dropout_;
  std::uint64_t dropout_id_, layer_id_;
  int layer_;
  TensorParallel tensor_;
};

// The backward of a unit that is the identity.
void pass(Context& ctx, Tensor dx, Tensor dy);

// The norm called `name` ("model.norm"), of the architecture's kind.
NormOptions norm_options(const ModelConfig& config, const std::string& name, const Ownership& owner);
// The matrix [h, ...] that writes a unit's branch to the residual stream; `weight` says which of its columns this rank has.
LinearOptions output_options(const ModelConfig& config, const UnitOptions& options, const std::string& name, std::int64_t columns, Piece weight);

}  // namespace offramp
