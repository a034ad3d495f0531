// The tensor of a list that a name was probably meant to be, for messages.
//
//   fail(Exit::checkpoint, "{}: lacks '{}'{}", path, name, nearest_hint(name, names));   // "...; the nearest it has is
//   'model.norm.weight'"
#pragma once
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace offramp {

// Empty where there is nothing to name. The first of equally near ones; names that nobody would write are passed over.
std::string nearest_hint(std::string_view name, std::span<const std::string> candidates);
// The same for a name that is missing from those that are there: one that nothing asks for is meant rather than any that has its place.
std::string nearest_hint(std::string_view name, std::span<const std::string> there, const std::set<std::string, std::less<>>& expected);

}  // namespace offramp
