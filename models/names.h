// The logical names of a model's tensors, of every architecture, in one place. Names are those of Hugging Face's modules; a module
// has a weight, and where biased() says so a bias: weight_of(names.final_norm) is "model.norm.weight".
//
//   const Names names(config);
//   const LayerNames layer = names.below(names.layer(3));   // of a backbone layer; names.below("exits.4.block"): of an exit's
//
// Internally every matrix is [out, in], and q, k, v are apart. Files of GPT-2 hold some of them transposed and fused: see
// checkpoint/huggingface.h.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "models/config.h"

namespace offramp {

struct LayerNames {
  std::string first_norm, query, key, value, attention_output;
  std::string second_norm, gate, up, down;  // gate: empty in GPT-2, whose MLP is down(gelu(up x))
};

struct Names {
  explicit Names(const ModelConfig& config);

  bool biased() const { return gpt2; }                // norms and linear maps have biases; embeddings and output matrices none
  std::string layer(std::int64_t index) const;        // from 0: "model.layers.3", "transformer.h.3"
  LayerNames below(const std::string& prefix) const;  // of a layer with this prefix
  static std::string exit(int layer);                 // from 1: "exits.4"
  static std::string exit_block(int layer);           // the prefix of a block or attention head's layer
  static std::string exit_norm(int layer);
  static std::string exit_output(int layer);

  bool gpt2;
  std::string embedding, positions;  // positions: learned ones, empty without
  std::string final_norm, output;    // output: the final head's matrix, the embedding's where they are tied
};

// Gives `name` another prefix, if it has this one: that of a module, and of all that is below it.
bool moved(std::string& name, const std::string& from, const std::string& to);
// The tensor that this one begins as a copy of, by its exit's `init`; itself where it copies none.
//   exit_origin("exits.4.norm.weight", config, exits) == "model.norm.weight"
std::string exit_origin(const std::string& name, const ModelConfig& config, std::span<const ExitSpec> exits);

inline std::string weight_of(const std::string& module) { return module + ".weight"; }
inline std::string bias_of(const std::string& module) { return module + ".bias"; }

}  // namespace offramp
