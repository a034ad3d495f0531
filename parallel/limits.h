// How much a schedule may keep at once.
#pragma once
#include "parallel/schedule.h"

namespace offramp {

// What a schedule may keep at once. in_flight: per stage, microbatches between F and what completes its weight gradients;
// empty: no limit. head_slices: per rank and exit, microbatches between S and H (evaluation: G); 0: no limit.
struct Limits {
  std::vector<int> in_flight;
  int head_slices = 2;
};
// "1f1b", "1f1b+2", "7" or "any": as many as 1F1B keeps on each stage (with several stages a rank, interleaved), so many more, a number,
// or no limit. Throws std::invalid_argument.
Limits parse_in_flight(std::string_view text, const Layout& layout);

}  // namespace offramp
