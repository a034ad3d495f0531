// Small models, exits of every kind, and their export with one value everywhere: what the tests of exports share.
#pragma once
#include "checkpoint/huggingface.h"

namespace offramp::testing {

inline ModelConfig small_model(bool tied = false) {
  return {.num_hidden_layers = 3,
          .hidden_size = 24,
          .intermediate_size = 40,
          .num_attention_heads = 6,
          .num_key_value_heads = 2,
          .vocab_size = 50,
          .max_position_embeddings = 32,
          .rope_theta = 5000.0,
          .rms_norm_eps = 1e-6,
          .tie_word_embeddings = tied,
          .initializer_range = 0.03};
}

inline ModelConfig small_gpt2(bool tied = false) {
  return {.architecture = "gpt2",
          .num_hidden_layers = 2,
          .hidden_size = 20,
          .intermediate_size = 36,
          .num_attention_heads = 4,
          .num_key_value_heads = 4,
          .vocab_size = 50,
          .max_position_embeddings = 32,
          .layer_norm_epsilon = 1e-6,
          .attention_dropout = 0.25,
          .hidden_dropout = 0.5,
          .tie_word_embeddings = tied,
          .initializer_range = 0.03};
}

// Every kind of head, every kind of sharing, not in order.
inline std::vector<ExitSpec> all_exits() {
  return {{.layer = 3, .head = HeadKind::attention, .shared_output = true},
          {.layer = 1, .head = HeadKind::mlp, .shared_norm = true},
          {.layer = 2, .head = HeadKind::block}};
}

inline void write_export(const std::string& directory, const ModelConfig& model, std::span<const ExitSpec> exits, float value) {
  ExportDirectory out(directory);
  write_config_json(out.path(), model, 7);
  write_exits_json(out.path(), exits);
  for (const auto& [name, entries] :
       {std::pair{"/model.safetensors", backbone_entries(model)}, {"/exits.safetensors", exit_entries(model, exits)}}) {
    SafetensorsWriter writer(out.path() + name, file_entries(entries));
    for (const auto& entry : writer.entries()) writer.write(std::vector<float>(static_cast<std::size_t>(entry.shape.elements()), value));
    writer.finish();
  }
  out.commit();
}

}  // namespace offramp::testing
