#include "models/subnet.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace offramp {
namespace {

// What the whole model has of an axis.
Subnet sizes_of(const ModelConfig& model) {
  return {model.num_hidden_layers, model.hidden_size, model.intermediate_size, model.num_key_value_heads, model.queries_per_group()};
}

}  // namespace

const std::vector<SubnetAxis>& subnet_axes() {
  static const std::vector<SubnetAxis> kAxes = {
      {"num_hidden_layers", &Subnet::num_hidden_layers, &Space::num_hidden_layers},
      {"hidden_size", &Subnet::hidden_size, &Space::hidden_size},
      {"intermediate_size", &Subnet::intermediate_size, &Space::intermediate_size},
      {"num_key_value_heads", &Subnet::num_key_value_heads, &Space::num_key_value_heads},
      {"queries_per_group", &Subnet::queries_per_group, &Space::queries_per_group},
  };
  return kAxes;
}

Subnet spelled_out(const Subnet& subnet, const ModelConfig& model) {
  Subnet all = sizes_of(model);
  for (const SubnetAxis& axis : subnet_axes())
    if (subnet.*axis.size != 0) all.*axis.size = subnet.*axis.size;
  return all;
}

Subnet shortened(const Subnet& subnet, const ModelConfig& model) {
  const Subnet all = sizes_of(model);
  Subnet shorter = subnet;
  for (const SubnetAxis& axis : subnet_axes())
    if (subnet.*axis.size == all.*axis.size) shorter.*axis.size = 0;
  return shorter;
}

ModelConfig narrowed(const ModelConfig& model, const Subnet& subnet) {
  const Subnet sizes = spelled_out(subnet, model);
  ModelConfig alone = model;
  alone.num_hidden_layers = sizes.num_hidden_layers;
  alone.hidden_size = sizes.hidden_size;
  alone.intermediate_size = sizes.intermediate_size;
  alone.num_key_value_heads = sizes.num_key_value_heads;
  alone.num_attention_heads = sizes.num_key_value_heads * sizes.queries_per_group;
  alone.set_head_size(model.head_size());
  return alone;
}

bool is_whole_width(const Subnet& subnet, const ModelConfig& model) {
  Subnet width = shortened(subnet, model);
  width.num_hidden_layers = 0;
  return width == Subnet{};
}

std::string to_text(const Subnet& subnet) {
  std::vector<std::string> sizes;
  for (const SubnetAxis& axis : subnet_axes())
    if (subnet.*axis.size != 0) sizes.push_back(fmt::format("\"{}\":{}", axis.name, subnet.*axis.size));
  return fmt::format("{{{}}}", fmt::join(sizes, ","));
}

Subnet smallest(const Space& space) {
  Subnet subnet;
  for (const SubnetAxis& axis : subnet_axes())
    if (const auto& choices = space.*axis.choices; choices.size() > 1) subnet.*axis.size = choices.front();
  return subnet;
}

double count_of(const Space& space) {
  double count = 1;
  for (const SubnetAxis& axis : subnet_axes()) count *= static_cast<double>(std::max<std::size_t>(1, (space.*axis.choices).size()));
  return count;
}

Subnet nth_of(const Space& space, std::int64_t n) {
  Subnet subnet;
  for (const SubnetAxis& axis : subnet_axes()) {
    const auto& choices = space.*axis.choices;
    if (choices.empty()) continue;
    subnet.*axis.size = choices[static_cast<std::size_t>(n) % choices.size()];
    n /= std::ssize(choices);
  }
  return subnet;
}

std::string misfit(const Subnet& subnet, const Space& space, const ModelConfig& model) {
  const Subnet own = sizes_of(model), sizes = spelled_out(subnet, model);
  for (const SubnetAxis& axis : subnet_axes()) {
    std::vector<std::int64_t> choices = space.*axis.choices;
    if (choices.empty()) choices = {own.*axis.size};
    if (std::ranges::count(choices, sizes.*axis.size) == 0)
      return fmt::format("{} {}: the choices are {}", axis.name, sizes.*axis.size, fmt::join(choices, ", "));
  }
  return {};
}

}  // namespace offramp
