#include "parallel/limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace offramp {
namespace {

// What 1F1B keeps on a stage, or with several stages a rank interleaved (see generators.cpp), however many microbatches there are.
int kept_on(int stage, const Layout& layout) {
  const int ranks = layout.ranks, chunks = layout.stages / ranks, rank = stage % ranks, chunk = stage / ranks;
  if (chunks == 1 || layout.stages % ranks != 0) return layout.stages - stage;
  const int ahead = 2 * (ranks - rank - 1) + (chunks - 1) * ranks;
  int kept = 0, most = 0;
  for (int k = 0; k < ahead + 2 * layout.stages; ++k) {
    if (k / ranks % chunks == chunk) most = std::max(most, ++kept);
    if (k >= ahead && chunks - 1 - (k - ahead) / ranks % chunks == chunk) --kept;
  }
  return most;
}

}  // namespace

Limits parse_in_flight(std::string_view text, const Layout& layout) {
  if (text == "any") return {};
  const std::string_view whole = text;
  const bool relative = text.starts_with("1f1b");
  if (relative) text.remove_prefix(4);
  int more = 0;
  const bool number = !relative || text.starts_with('+');
  if (relative && number) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), more);
  const bool right = number ? error == std::errc() && end == text.data() + text.size() && more >= (relative ? 0 : 1) : text.empty();
  if (!right) throw std::invalid_argument(fmt::format("in_flight is 1f1b, 1f1b+K, a number of microbatches or any, not '{}'", whole));
  Limits limits;
  for (int s = 0; s < layout.stages; ++s) limits.in_flight.push_back(relative ? kept_on(s, layout) + more : more);
  return limits;
}

}  // namespace offramp
