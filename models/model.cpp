#include "models/model.h"

#include <algorithm>
#include <cmath>

#include "models/branch.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// The unit whose output an exit reads: of layer l the MLP, or for an mlp head the attention, whose output is r.
int tap_of(const ExitSpec& exit) { return (exit.head == HeadKind::mlp ? 1 : 2) + 2 * (exit.layer - 1); }

std::vector<ModulePtr> make_body(const Model& model, const ExitSpec& exit) {
  const ModelConfig& config = model.config;
  const Names names(config);
  const Ownership own{.writer = Writer::head, .lr_scale = exit.lr_scale};
  const UnitOptions block{.prefix = Names::exit_block(exit.layer), .owner = own, .tensor = model.tensor, .space = model.space};
  std::vector<ModulePtr> body;
  if (exit.head == HeadKind::mlp) {
    body.push_back(make_mlp(config, {.prefix = Names::exit(exit.layer),
                                     .owner = own,
                                     .norm_name = names.below(names.layer(exit.layer - 1)).second_norm,
                                     .norm_owner = {.writer = Writer::head, .learns = !exit.detach},
                                     .tensor = model.tensor,
                                     .space = model.space}));
  }
  if (exit.head == HeadKind::block || exit.head == HeadKind::attention) body.push_back(make_attention(config, block, model.rope_table));
  if (exit.head == HeadKind::block) body.push_back(make_mlp(config, block));
  return body;
}

std::unique_ptr<Norm> make_norm(const Model& model, const std::string& name, double lr_scale) {
  return std::make_unique<Norm>(norm_options(model.config, name, {.writer = Writer::head, .lr_scale = lr_scale}), model.tensor);
}

OutputMatrix make_output(const Model& model, const std::string& name, double lr_scale) {
  return {{.name = weight_of(name),
           .vocabulary = model.config.vocab_size,
           .hidden = model.config.hidden_size,
           .deviation = model.config.initializer_range,
           .lr_scale = lr_scale,
           .pipeline = model.head_part},
          model.tensor};
}

Head make_final_head(const Model& model, int tap) {
  const Names names(model.config);
  const ExitSpec spec{.layer = static_cast<int>(model.config.num_hidden_layers), .loss_weight = 1};
  return {spec, tap, {}, make_norm(model, names.final_norm, 1), make_output(model, names.output, 1)};
}

}  // namespace

double residual_deviation(const ModelConfig& config) {
  return config.initializer_range / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
}

Head make_head(const Model& model, const ExitSpec& exit, int tap) {
  const Names names(model.config);
  std::unique_ptr<Norm> norm;
  if (exit.head != HeadKind::bare)
    norm = exit.shared_norm ? make_norm(model, names.final_norm, 1) : make_norm(model, Names::exit_norm(exit.layer), exit.lr_scale);
  OutputMatrix output =
      exit.shared_output ? make_output(model, names.output, 1) : make_output(model, Names::exit_output(exit.layer), exit.lr_scale);
  return {exit, tap, make_body(model, exit), std::move(norm), std::move(output)};
}

namespace {

// What bears an exit's name learns; what an exit shares with the backbone does not.
void freeze_backbone(Model& model) {
  if (model.final)
    model.final->visit([](Parameter& p) { p.frozen = true; });
  else
    model.units.erase(model.units.begin() + model.heads.back().tap() + 1, model.units.end());
  for (Unit& unit : model.units) unit.module->visit([](Parameter& p) { p.frozen = true; });
  for (std::size_t e = 0; e < model.heads.size(); ++e) {
    const std::string own = Names::exit(model.heads[e].spec().layer) + ".";
    model.heads[e].visit([&](Parameter& p) { p.frozen = !p.name().starts_with(own), p.clip_group = static_cast<int>(e); });
  }
}

void add_units(Model& model) {
  model.units.push_back({0, make_embedding(model.config, model.tensor)});
  for (int layer = 1; layer <= model.config.num_hidden_layers; ++layer) {
    const UnitOptions unit{.prefix = Names(model.config).layer(layer - 1), .layer = layer, .tensor = model.tensor, .space = model.space};
    model.units.push_back({layer, make_attention(model.config, unit, model.rope_table)});
    model.units.push_back({layer, make_mlp(model.config, unit)});
  }
}

int last_unit(const Model& model) { return static_cast<int>(model.units.size()) - 1; }

}  // namespace

Model build_model(const ModelConfig& config, std::span<const ExitSpec> exits, const ModelOptions& options) {
  if (config.architecture != "llama" && !config.gpt2()) {
    fail(Exit::configuration, "model.architecture: \"{}\" is not known; use llama or gpt2", config.architecture);
  }
  const bool frozen = options.frozen_backbone;
  Model model{.config = config, .tensor = options.tensor, .precision = options.precision, .head_part = options.heads, .frozen = frozen};
  model.given_taps = options.given_taps, model.space = options.space;
  OFFRAMP_CHECK(frozen || !model.given_taps, "[model] a backbone that learns gives its taps itself");
  if (!config.gpt2()) model.rope_table = std::make_shared<Tensor>();
  add_units(model);
  std::vector<ExitSpec> sorted(exits.begin(), exits.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const ExitSpec& a, const ExitSpec& b) { return a.layer < b.layer; });
  for (ExitSpec& exit : sorted) {
    OFFRAMP_CHECK(exit.layer >= 1 && exit.layer <= config.num_hidden_layers, "[model] an exit at layer {} of {}", exit.layer,
                  config.num_hidden_layers);
    exit.detach = exit.detach || frozen;
    model.heads.push_back(make_head(model, exit, tap_of(exit)));
  }
  const int last = last_unit(model);
  if (learns_from_final(exits) || options.teaches) model.final = make_final_head(model, last);
  if (frozen) {
    OFFRAMP_CHECK(!model.heads.empty(), "[model] nothing learns: the backbone is frozen, and there is no exit");
    freeze_backbone(model);
  } else {
    model.heads.push_back(make_final_head(model, last));
  }
  return model;
}

Model build_teacher(const Model& of) {
  Model teacher{.config = of.config, .tensor = of.tensor, .precision = of.precision, .space = of.space, .frozen = true};
  teacher.rope_table = of.rope_table;
  add_units(teacher);
  teacher.final = make_final_head(teacher, last_unit(teacher));
  const Visitor freeze = [](Parameter& p) { p.frozen = true; };
  for (Unit& unit : teacher.units) unit.module->visit(freeze);
  teacher.final->visit(freeze);
  return teacher;
}

void Model::prepare(Context& ctx, Arena& arena) {
  if (!rope_table) return;
  *rope_table = arena.tensor({config.max_position_embeddings, config.head_size()}, DType::f32);
  offramp::rope_table(ctx, *rope_table, rope_frequencies(config));
}

}  // namespace offramp
