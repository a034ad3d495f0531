// How far apart two words are, for messages that name what may have been meant: the letters to insert, remove, replace, or swap with
// a neighbour. Time and memory grow with the product of the lengths: cut off what nobody would have meant.
#pragma once
#include <cstddef>
#include <string_view>

namespace offramp {

std::size_t edits(std::string_view a, std::string_view b);

}  // namespace offramp
