// Exits that were tuned apart onto one frozen backbone, in one checkpoint: weights and optimizer state are what a job that tunes all of
// them has, bit for bit, since exits do not interact. Such a job may go on from it. Inputs are alike in all that an exit's numbers follow
// from; what only their last bits follow from, layouts and processors, is told.
//
//   merge_checkpoints({"runs/early/checkpoints", "runs/late/checkpoints/step-500"}, "runs/both")   // runs/both/step-500
//
// Throws Error(Exit::checkpoint) for what cannot be one.
#pragma once
#include <string>
#include <vector>

namespace offramp {

// Two inputs or more, each a CHECKPOINT. What to print.
std::string merge_checkpoints(const std::vector<std::string>& inputs, const std::string& output);

}  // namespace offramp
