// Who speaks: the words that begin a rank's line on stderr, the same wherever it comes from.
//
//   fmt::print(stderr, "{}\n", error_line(world.rank(), error.code, error.what()));   // offramp: rank 3 on node7: step 12, ...
#pragma once
#include <string>

#include "tensor/check.h"

namespace offramp {

std::string host_name();

// `what` with rank and host before it. An error of the configuration stays as it is: it begins with file and line, and is the
// same on every rank.
std::string error_line(int rank, Exit code, const std::string& what);

}  // namespace offramp
