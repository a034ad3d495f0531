#include "trainer/subnets.h"

#include <fmt/ranges.h>

#include "checkpoint/huggingface.h"
#include "checkpoint/subnet_source.h"
#include "parallel/work.h"
#include "tensor/check.h"

namespace offramp {
namespace {

std::string cost_text(const char* which, const Subnet& subnet, const Config& config) {
  const SubnetCost cost = cost_of(subnet, config);
  return fmt::format("  {}: {:.3f} million parameters, {:.3f} MFLOPs a token, {}\n", which, cost.parameters / 1e6, cost.flops / 1e6,
                     to_text(spelled_out(subnet, config.model)));
}

}  // namespace

Space subnets_of(const Space& saved, const Config& config) {
  Space space = saved;
  const Subnet own = spelled_out({}, config.model);
  for (const SubnetAxis& axis : subnet_axes()) {
    const auto& choices = saved.*axis.choices;
    if (!choices.empty() && choices.back() != own.*axis.size)
      fail(Exit::checkpoint, "the space of subnets ends with {} {}, but the model has {}", axis.name, choices.back(), own.*axis.size);
  }
  if (!space.empty()) return space;
  for (const ExitSpec& exit : config.exits)
    if (exit.layer < config.model.num_hidden_layers) space.num_hidden_layers.push_back(exit.layer);
  space.num_hidden_layers.push_back(config.model.num_hidden_layers);
  return space;
}

void check_subnet(const Subnet& subnet, const Space& space, const ModelConfig& model) {
  const std::string wrong = misfit(subnet, space, model);
  if (!wrong.empty()) fail(Exit::configuration, "--subnet {}: {}", to_text(subnet), wrong);
}

SubnetCost cost_of(const Subnet& subnet, const Config& config) {
  std::vector<ExitSpec> exits = config.exits;
  for (ExitSpec& exit : exits)
    if (exit.head == HeadKind::bare) exit.head = HeadKind::norm;  // which costs as much, and has a form of its own
  const ModelConfig model = subnet_config(config.model, exits, subnet);
  SubnetCost cost;
  for (const ExportEntry& entry : backbone_entries(model)) cost.parameters += static_cast<double>(entry.file.shape.elements());
  const std::int64_t given = config.training.sequence_length;
  const LayerFlops layer = layer_flops(model, given > 0 ? given : model.max_position_embeddings);
  cost.flops = static_cast<double>(model.num_hidden_layers) * (layer.attention.forward + layer.mlp.forward) + output_flops(model).forward;
  return cost;
}

std::string describe_space(const Space& space, const Config& config) {
  std::string text = fmt::format("  {:.0f} subnets:\n", count_of(space));
  for (const SubnetAxis& axis : subnet_axes())
    if (const auto& choices = space.*axis.choices; !choices.empty())
      text += fmt::format("    {:<20} {}\n", axis.name, fmt::join(choices, ", "));
  return text + cost_text("smallest", smallest(space), config) + cost_text("largest", {}, config);
}

}  // namespace offramp
