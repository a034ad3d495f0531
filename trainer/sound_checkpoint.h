// Which step of a directory of checkpoints all ranks of a job read.
//
//   const auto step = newest_sound(ctx, world, activity, "runs/quickstart/checkpoints", notes);   // "runs/.../step-300"
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "comm/group.h"

namespace offramp {

// Collective: all ranks choose alike, and each reads its part of the files. The newest step of `directory` that verifies, or that step
// itself; nothing where there is none. `notes`: a line for each that is passed over. Throws AgreedError(Exit::checkpoint) where
// checkpoints are there, and none is sound.
std::optional<std::string> newest_sound(Context& ctx, const Group& world, Activity& activity, const std::string& directory,
                                        std::vector<std::string>& notes);

}  // namespace offramp
