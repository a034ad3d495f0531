#include "checkpoint/subnet_json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "checkpoint/json_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::uint64_t kMostSize = 2147483647;
constexpr std::size_t kMostChoices = 1000;

const SubnetAxis* find_axis(const std::string& name) {
  const auto& axes = subnet_axes();
  const auto it = std::ranges::find_if(axes, [&](const SubnetAxis& axis) { return name == axis.name; });
  return it == axes.end() ? nullptr : &*it;
}

std::string axis_names() {
  std::vector<std::string> names;
  for (const SubnetAxis& axis : subnet_axes()) names.emplace_back(axis.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// 0: it is none.
std::int64_t size_of(const nlohmann::json& value) {
  const bool sound = value.is_number_unsigned() && value.get<std::uint64_t>() <= kMostSize;
  return sound ? value.get<std::int64_t>() : 0;
}

nlohmann::json object_of(const std::string& text) {
  try {
    return parse_object(text);
  } catch (const JsonProblem& problem) {
    fail(Exit::configuration, "--subnet {}: {}; write an object of sizes, such as {}", text, problem.what(),
         R"({"num_hidden_layers": 4, "intermediate_size": 172})");
  }
}

}  // namespace

Subnet parse_subnet(const std::string& text) {
  const nlohmann::json object = object_of(text);
  Subnet subnet;
  for (const auto& [name, value] : object.items()) {
    const SubnetAxis* axis = find_axis(name);
    if (!axis) fail(Exit::configuration, "--subnet {}: a subnet has no {}; its sizes are {}", text, name, axis_names());
    subnet.*axis->size = size_of(value);
    if (subnet.*axis->size == 0)
      fail(Exit::configuration, "--subnet {}: {} is {}, wanted a whole number from 1 to {}", text, name,
           value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kMostSize);
  }
  return subnet;
}

nlohmann::ordered_json to_json(const Space& space) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const SubnetAxis& axis : subnet_axes())
    if (const auto& choices = space.*axis.choices; !choices.empty()) json[axis.name] = choices;
  return json;
}

Space read_space(const nlohmann::json& json) {
  if (!json.is_object()) throw JsonProblem("is no JSON object");
  Space space;
  for (const auto& [name, list] : json.items()) {
    const SubnetAxis* axis = find_axis(name);
    if (!axis) throw JsonProblem(fmt::format("has '{}', which is no size of a subnet", name));
    if (!list.is_array() || list.empty() || list.size() > kMostChoices) throw JsonProblem(fmt::format("has no choices of {}", name));
    for (const nlohmann::json& each : list) {
      auto& choices = space.*axis->choices;
      const std::int64_t size = size_of(each);
      if (size <= (choices.empty() ? 0 : choices.back())) throw JsonProblem(fmt::format("has choices of {} that do not ascend", name));
      choices.push_back(size);
    }
  }
  return space;
}

}  // namespace offramp
