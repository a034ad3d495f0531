// Which subnets of a space a search measures first: the ends of the space, which a fit must not guess, and random others between them.
//
//   for (const Subnet& subnet : sample_subnets(space, model, 48, seed)) ...
#pragma once
#include <cstdint>
#include <vector>

#include "models/subnet.h"

namespace offramp {

// `count` subnets (or all that there are), none twice, as shortened() writes them: the whole, the smallest, each depth in whole width, and
// then random ones. Same seed, same subnets.
std::vector<Subnet> sample_subnets(const Space& space, const ModelConfig& model, std::int64_t count, std::uint64_t seed);

}  // namespace offramp
