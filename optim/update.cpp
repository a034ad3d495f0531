#include "optim/update.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "tensor/check.h"

namespace offramp {
namespace {

enum class Rule { adamw, sgd };

Rule rule_of(const OptimizerConfig& config) {
  if (config.name == "adamw") return Rule::adamw;
  OFFRAMP_CHECK(config.name == "sgd", "[optimizer] no optimizer is called {}", config.name);
  return Rule::sgd;
}

void adamw_range(Context& ctx, const Flat& flat, const OptimizerConfig& config, const Update& update, Tensor scalars) {
  AdamW options;
  options.beta1 = static_cast<float>(config.betas[0]);
  options.beta2 = static_cast<float>(config.betas[1]);
  options.one_minus_beta1 = static_cast<float>(1 - config.betas[0]);
  options.one_minus_beta2 = static_cast<float>(1 - config.betas[1]);
  options.eps = static_cast<float>(config.eps);
  options.weight_decay = update.decay ? static_cast<float>(config.weight_decay) : 0.0f;
  options.lr_scale = static_cast<float>(update.lr_scale);
  const Range r = update.range;
  adamw(ctx, flat.values(r), flat.master(r), flat.state("exp_avg", r), flat.state("exp_avg_sq", r), flat.gradients(r), scalars, options);
}

void sgd_range(Context& ctx, const Flat& flat, const OptimizerConfig& config, const Update& update, Tensor scalars) {
  Sgd options;
  options.momentum = static_cast<float>(config.momentum);
  options.nesterov = config.nesterov;
  options.weight_decay = update.decay ? static_cast<float>(config.weight_decay) : 0.0f;
  options.lr_scale = static_cast<float>(update.lr_scale);
  const Range r = update.range;
  const Tensor velocity = config.momentum > 0 ? flat.state("momentum", r) : Tensor{};
  sgd(ctx, flat.values(r), flat.master(r), velocity, flat.gradients(r), scalars, options);
}

}  // namespace

LogicalNames::LogicalNames(Model& model) {
  std::map<std::string, int> names;  // and their groups
  const auto collect = [&](Parameter& p) {
    for (const Piece& piece : p.pieces)
      if (!p.frozen) names[piece.name] = p.clip_group;
  };
  for (Head& head : model.heads) head.visit(collect);
  for (Unit& unit : model.units) unit.module->visit(collect);
  for (const auto& [name, group] : names) {
    number_[name] = size();
    names_.push_back(name);
    groups_.push_back(group);
    clip_groups_ = std::max(clip_groups_, group + 1);
  }
}

namespace {

// Where the parts of a matrix lie apart, a rank's order will do: it has all of the parameter's runs, in one piece.
void add_squares(Context& ctx, const Parameter& parameter, Range local, const LogicalNames& names, Tensor squares) {
  const Tensor gradient = parameter.grad.reshape({parameter.grad.elements()});
  const auto sum_of = [&](const Piece& piece) { return squares.narrow(0, names.number(piece.name), 1); };
  if (parameter.pieces.size() == 1) return sum_of_squares(ctx, sum_of(parameter.pieces[0]), gradient.narrow(0, local.begin, local.count()));
  for (const Piece& piece : parameter.pieces)
    runs(piece, local.begin, local.end,
         [&](const Run& run) { sum_of_squares(ctx, sum_of(piece), gradient.narrow(0, run.local, run.count)); });
}

}  // namespace

void gradient_squares(Context& ctx, const Flat& flat, const LogicalNames& names, int tensor_rank, Tensor squares) {
  for (const Parameter* parameter : flat.owned()) {
    if (parameter->replicated && tensor_rank > 0) continue;
    const Range place = flat.place(*parameter);
    for (const Bucket& bucket : flat.buckets()) {
      const Range part = flat.shard(bucket) & place;
      if (part.count() > 0) add_squares(ctx, *parameter, {part.begin - place.begin, part.end - place.begin}, names, squares);
    }
  }
}

double gradient_norm(Tensor squares) {
  double sum = 0;
  for (std::int64_t i = 0; i < squares.elements(); ++i) sum += squares.as<double>()[i];
  return std::sqrt(sum);
}

std::vector<double> group_norms(Tensor squares, const LogicalNames& names) {
  std::vector<double> norms(static_cast<std::size_t>(names.clip_groups()), 0);
  for (std::int64_t i = 0; i < names.size(); ++i) norms[static_cast<std::size_t>(names.clip_group(i))] += squares.as<double>()[i];
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

double clip_factor(double norm, double limit) { return limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0; }

std::vector<std::string> optimizer_state(const OptimizerConfig& config) {
  if (rule_of(config) == Rule::adamw) return {"exp_avg", "exp_avg_sq"};
  return config.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{};
}

void set_scalars(Tensor scalars, const StepScalars& step, const OptimizerConfig& config) {
  float* s = scalars.as<float>();
  s[0] = static_cast<float>(step.lr);
  s[1] = static_cast<float>(step.clip);
  s[2] = static_cast<float>(1.0 - std::pow(config.betas[0], static_cast<double>(step.updates)));
  s[3] = static_cast<float>(1.0 - std::pow(config.betas[1], static_cast<double>(step.updates)));
}

void apply_update(Context& ctx, const Flat& flat, const OptimizerConfig& config, Tensor scalars) {
  const auto update_range = rule_of(config) == Rule::adamw ? adamw_range : sgd_range;
  for (const Update& update : flat.updates()) {
    update_range(ctx, flat, config, update, scalars.narrow(0, update.clip_group, 1).reshape({4}));
  }
}

}  // namespace offramp
