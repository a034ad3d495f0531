#include "models/branch.h"

namespace offramp {

Branch::Branch(const ModelConfig& config, const UnitOptions& options, const std::string& name)
    : dropout_(static_cast<float>(config.hidden_dropout)),
      dropout_id_(hash(options.prefix + "." + name)),
      layer_id_(hash(options.prefix)),
      layer_(options.layer),
      tensor_(options.tensor) {}

std::int64_t Branch::tokens(const Tensor& rows) const { return rows.shape[0] * (tensor_.splits_rows() ? tensor_.size() : 1); }

Linear::Onto Branch::onto(const Slot& slot, Tensor rows, Tensor residual) const {
  const Draws& draws = slot.draws();
  Linear::Onto onto{.residual = residual};
  if (!draws.on) return onto;
  onto.dropout = {.p = dropout_, .key = {draws.seed, Use::dropout, dropout_id_}};
  onto.layer = layer_drop(slot);
  const std::int64_t first_row = draws.first_sample * slot.sequences().length + tensor_.first_row(tokens(rows));
  onto.dropout.first_row = onto.layer.first_row = first_row;
  return onto;
}

Drop Branch::layer_drop(const Slot& slot) const {
  const Draws& draws = slot.draws();
  if (!draws.on || draws.layer_rates.empty() || layer_ == 0) return {};
  return {.p = draws.layer_rates[static_cast<std::size_t>(layer_ - 1)],
          .key = {draws.seed, Use::layer, layer_id_},
          .rows = slot.sequences().length};
}

bool Branch::falls_whole(const Context& ctx, const Slot& slot, const Tensor& rows) const {
  const Drop drop = layer_drop(slot);
  if (ctx.planning() || drop.p == 0) return false;
  const std::int64_t first = slot.draws().first_sample, samples = tokens(rows) / slot.sequences().length;
  for (std::int64_t i = first; i < first + samples; ++i)
    if (!falls(drop, static_cast<std::uint64_t>(i))) return false;
  return true;
}

void pass(Context& ctx, Tensor dx, Tensor dy) {
  if (dx.defined() && dx.data != dy.data) copy(ctx, dx, dy);
}

NormOptions norm_options(const ModelConfig& config, const std::string& name, const Ownership& owner) {
  const bool centers = config.gpt2();
  return {.gain = weight_of(name),
          .bias = centers ? bias_of(name) : "",
          .hidden = config.hidden_size,
          .eps = centers ? config.layer_norm_epsilon : config.rms_norm_eps,
          .owner = owner};
}

LinearOptions output_options(const ModelConfig& config, const UnitOptions& options, const std::string& name, std::int64_t columns,
                             Piece weight) {
  LinearOptions linear{.shape = {config.hidden_size, columns},
                       .init = {.deviation = residual_deviation(config)},
                       .weight = {std::move(weight)},
                       .split = Split::row,
                       .owner = options.owner};
  if (config.gpt2()) linear.bias.push_back(whole(bias_of(name), {config.hidden_size}));
  return linear;
}

}  // namespace offramp
