#include "parallel/limits.h"

#include <fmt/format.h>

#include <charconv>
#include <stdexcept>

namespace offramp {

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
  for (int s = 0; s < layout.stages; ++s) limits.in_flight.push_back(relative ? layout.stages - s + more : more);
  return limits;
}

}  // namespace offramp
