#include "checkpoint/subnet_source.h"

namespace offramp {
namespace {

// As wide as the subnet, and as deep as the whole.
ModelConfig narrow_config(const ModelConfig& whole, Subnet subnet) {
  subnet.num_hidden_layers = 0;
  return narrowed(whole, subnet);
}

bool is_shallow(const ModelConfig& whole, const Subnet& subnet) {
  return subnet.num_hidden_layers != 0 && subnet.num_hidden_layers != whole.num_hidden_layers;
}

}  // namespace

ModelConfig subnet_config(const ModelConfig& whole, std::span<const ExitSpec> exits, const Subnet& subnet) {
  const ModelConfig narrow = narrow_config(whole, subnet);
  return is_shallow(whole, subnet) ? draft_config(narrow, exits, static_cast<int>(subnet.num_hidden_layers)) : narrow;
}

SubnetSource::SubnetSource(TensorSource& whole, const ModelConfig& config, std::span<const ExitSpec> exits, const Subnet& subnet)
    : config_(subnet_config(config, exits, subnet)), exits_(exits.begin(), exits.end()), narrow_(whole, config, exits, subnet) {
  if (!is_shallow(config, subnet)) return;
  shallow_.emplace(narrow_, narrow_config(config, subnet), exits, static_cast<int>(subnet.num_hidden_layers), DraftSource::Exits::below);
  exits_ = shallow_->exits();
}

}  // namespace offramp
