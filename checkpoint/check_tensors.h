// Whether a source has what a configuration says, which stands elsewhere in the same file and may be anything: every tensor of the model
// and its exits, of the shape that it has there.
//
//   check_tensors(weights, config.model, config.exits, checkpoint.directory());   // throws Error(Exit::checkpoint)
#pragma once
#include <span>

#include "checkpoint/tensor_source.h"
#include "models/config.h"

namespace offramp {

// where: for messages.
void check_tensors(const TensorSource& source, const ModelConfig& model, std::span<const ExitSpec> exits, const std::string& where);

}  // namespace offramp
