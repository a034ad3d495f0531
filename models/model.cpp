#include "models/model.h"

#include <algorithm>
#include <cmath>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr const char* kFinalNorm = "model.norm.weight";

// What the final head's output matrix is called.
const char* output_name(const ModelConfig& config) { return config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"; }

// The unit whose output an exit reads: of layer l the MLP, or for an mlp head the attention, whose output is r.
int tap_of(const ExitSpec& exit) { return (exit.head == HeadKind::mlp ? 1 : 2) + 2 * (exit.layer - 1); }

std::vector<ModulePtr> make_body(const ModelConfig& config, const ExitSpec& exit, std::shared_ptr<const Tensor> rope_table) {
  const std::string prefix = fmt::format("exits.{}", exit.layer);
  const Ownership own{.writer = Writer::head, .lr_scale = exit.lr_scale};
  const UnitOptions block{.prefix = prefix + ".block", .owner = own};
  std::vector<ModulePtr> body;
  if (exit.head == HeadKind::mlp) {
    body.push_back(make_mlp(config, {.prefix = prefix,
                                     .owner = own,
                                     .norm_name = fmt::format("model.layers.{}.post_attention_layernorm.weight", exit.layer - 1),
                                     .norm_owner = {.writer = Writer::head, .learns = !exit.detach}}));
  }
  if (exit.head == HeadKind::block || exit.head == HeadKind::attention) {
    body.push_back(make_attention(config, block, std::move(rope_table)));
  }
  if (exit.head == HeadKind::block) body.push_back(make_mlp(config, block));
  return body;
}

Head make_final_head(const ModelConfig& config, int tap) {
  const ExitSpec spec{.layer = static_cast<int>(config.num_hidden_layers), .loss_weight = 1};
  return {spec,
          tap,
          {},
          std::make_unique<Norm>(kFinalNorm, config.hidden_size, config.rms_norm_eps, Ownership{.writer = Writer::head}),
          OutputMatrix(output_name(config), {config.vocab_size, config.hidden_size}, config.initializer_range)};
}

}  // namespace

const char* name_of(HeadKind kind) {
  switch (kind) {
    case HeadKind::bare:
      return "bare";
    case HeadKind::norm:
      return "norm";
    case HeadKind::mlp:
      return "mlp";
    case HeadKind::block:
      return "block";
    case HeadKind::attention:
      return "attention";
  }
  return "unknown";
}

double residual_deviation(const ModelConfig& config) {
  return config.initializer_range / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
}

Head make_head(const ModelConfig& config, const ExitSpec& exit, int tap, std::shared_ptr<const Tensor> rope_table) {
  const std::string prefix = fmt::format("exits.{}", exit.layer);
  std::unique_ptr<Norm> norm;
  if (exit.head != HeadKind::bare) {
    norm = std::make_unique<Norm>(exit.shared_norm ? kFinalNorm : prefix + ".norm.weight", config.hidden_size, config.rms_norm_eps,
                                  Ownership{.writer = Writer::head, .lr_scale = exit.shared_norm ? 1 : exit.lr_scale});
  }
  OutputMatrix output(exit.shared_output ? output_name(config) : prefix + ".head.weight", {config.vocab_size, config.hidden_size},
                      config.initializer_range, exit.shared_output ? 1 : exit.lr_scale);
  return {exit, tap, make_body(config, exit, std::move(rope_table)), std::move(norm), std::move(output)};
}

Model build_model(const ModelConfig& config, std::span<const ExitSpec> exits) {
  if (config.architecture != "llama") {
    fail(Exit::configuration, "model.architecture: \"{}\" is not known; use llama", config.architecture);
  }
  Model model{.config = config};
  model.units.push_back({0, make_embedding(config)});
  for (int layer = 1; layer <= config.num_hidden_layers; ++layer) {
    const UnitOptions options{.prefix = fmt::format("model.layers.{}", layer - 1)};
    model.units.push_back({layer, make_attention(config, options, model.rope_table)});
    model.units.push_back({layer, make_mlp(config, options)});
  }
  std::vector<ExitSpec> sorted(exits.begin(), exits.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const ExitSpec& a, const ExitSpec& b) { return a.layer < b.layer; });
  for (const ExitSpec& exit : sorted) {
    OFFRAMP_CHECK(exit.layer >= 1 && exit.layer <= config.num_hidden_layers, "[model] an exit at layer {} of {}", exit.layer,
                  config.num_hidden_layers);
    model.heads.push_back(make_head(config, exit, tap_of(exit), model.rope_table));
  }
  model.heads.push_back(make_final_head(config, static_cast<int>(model.units.size()) - 1));
  return model;
}

void Model::prepare(Context& ctx, Arena& arena) {
  *rope_table = arena.tensor({config.max_position_embeddings, config.head_size()}, DType::f32);
  offramp::rope_table(ctx, *rope_table, config.rope_theta);
}

}  // namespace offramp
