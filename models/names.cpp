#include "models/names.h"

#include <fmt/format.h>

#include <algorithm>

namespace offramp {

Names::Names(const ModelConfig& config)
    : gpt2(config.gpt2()),
      embedding(gpt2 ? "transformer.wte" : "model.embed_tokens"),
      positions(gpt2 ? "transformer.wpe" : ""),
      final_norm(gpt2 ? "transformer.ln_f" : "model.norm"),
      output(config.tie_word_embeddings ? embedding : "lm_head") {}

std::string Names::layer(std::int64_t index) const { return fmt::format("{}.{}", gpt2 ? "transformer.h" : "model.layers", index); }

LayerNames Names::below(const std::string& prefix) const {
  if (gpt2) {
    return {.first_norm = prefix + ".ln_1",
            .query = prefix + ".attn.q_proj",
            .key = prefix + ".attn.k_proj",
            .value = prefix + ".attn.v_proj",
            .attention_output = prefix + ".attn.c_proj",
            .second_norm = prefix + ".ln_2",
            .gate = "",
            .up = prefix + ".mlp.c_fc",
            .down = prefix + ".mlp.c_proj"};
  }
  return {.first_norm = prefix + ".input_layernorm",
          .query = prefix + ".self_attn.q_proj",
          .key = prefix + ".self_attn.k_proj",
          .value = prefix + ".self_attn.v_proj",
          .attention_output = prefix + ".self_attn.o_proj",
          .second_norm = prefix + ".post_attention_layernorm",
          .gate = prefix + ".mlp.gate_proj",
          .up = prefix + ".mlp.up_proj",
          .down = prefix + ".mlp.down_proj"};
}

std::string Names::exit(int layer) { return fmt::format("exits.{}", layer); }
std::string Names::exit_block(int layer) { return exit(layer) + ".block"; }
std::string Names::exit_norm(int layer) { return exit(layer) + ".norm"; }
std::string Names::exit_output(int layer) { return exit(layer) + ".head"; }


bool moved(std::string& name, const std::string& from, const std::string& to) {
  if (!name.starts_with(from + ".")) return false;
  name = to + name.substr(from.size());
  return true;
}

std::string exit_origin(const std::string& name, const ModelConfig& config, std::span<const ExitSpec> exits) {
  const Names names(config);
  for (const ExitSpec& exit : exits) {
    if (exit.init != ExitInit::final_head && exit.init != ExitInit::copy_layer) continue;
    if (!name.starts_with(Names::exit(exit.layer) + ".")) continue;
    const std::int64_t last = config.num_hidden_layers - 1, own = exit.layer - 1;  // layers from 0 here
    const bool near = exit.init == ExitInit::copy_layer;
    std::string origin = name;
    moved(origin, Names::exit_norm(exit.layer), names.final_norm) || moved(origin, Names::exit_output(exit.layer), names.output) ||
        moved(origin, Names::exit(exit.layer) + ".mlp", names.layer(near ? own : last) + ".mlp") ||
        moved(origin, Names::exit_block(exit.layer), names.layer(near ? std::min(own + 1, last) : last));
    return origin;
  }
  return name;
}

}  // namespace offramp
