#include "checkpoint/nearest_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tensor/edits.h"

namespace offramp {

std::string nearest_hint(std::string_view name, std::span<const std::string> candidates) {
  constexpr std::size_t kLongest = 200, kMost = 5000;  // keeps a hostile file from costing seconds
  const std::string* best = nullptr;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const std::string& candidate : candidates.first(std::min(candidates.size(), kMost))) {
    if (name.size() > kLongest || candidate.size() > kLongest) continue;
    const std::size_t at_least = std::max(name.size(), candidate.size()) - std::min(name.size(), candidate.size());
    if (at_least >= least) continue;
    if (const std::size_t distance = edits(name, candidate); distance < least) best = &candidate, least = distance;
  }
  return best ? fmt::format("; the nearest it has is '{}'", *best) : "";
}

std::string nearest_hint(std::string_view name, std::span<const std::string> there, const std::set<std::string, std::less<>>& expected) {
  std::vector<std::string> free;
  for (const std::string& other : there) {
    if (!expected.contains(other)) free.push_back(other);
  }
  return free.empty() ? nearest_hint(name, there) : nearest_hint(name, free);
}

}  // namespace offramp
