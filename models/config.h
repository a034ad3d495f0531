// What a model is: the sizes a user writes, with Hugging Face's names, and the exits attached to it. Values only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace offramp {

// A Llama's rotary frequencies after training on longer sequences: default as they are, llama3 stretched as RopeFrequencies
// (tensor/ops.h) says; the rest means something to llama3 only.
struct RopeScaling {
  std::string rope_type = "default";  // default | llama3
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;

  bool llama3() const { return rope_type == "llama3"; }
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string architecture = "llama";  // llama | gpt2
  std::int64_t num_hidden_layers = 0, hidden_size = 0, intermediate_size = 0;
  std::int64_t num_attention_heads = 0, num_key_value_heads = 0;  // grouped-query attention where they differ
  std::int64_t head_dim = 0;                                      // of a head; 0: hidden_size / num_attention_heads
  std::int64_t vocab_size = 0, max_position_embeddings = 0;
  double rope_theta = 10000.0, rms_norm_eps = 1e-5;  // of a Llama
  RopeScaling rope_scaling;                          // of a Llama
  double layer_norm_epsilon = 1e-5;                  // of a GPT-2
  double attention_dropout = 0, hidden_dropout = 0;  // of attention's probabilities; of what is added to the residual stream
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;

  bool gpt2() const { return architecture == "gpt2"; }
  std::int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
  // Once hidden_size and num_attention_heads are known: one size has one form.
  void set_head_size(std::int64_t size) { head_dim = size * num_attention_heads == hidden_size ? 0 : size; }
  std::int64_t queries_per_group() const { return num_attention_heads / num_key_value_heads; }
  bool operator==(const ModelConfig&) const = default;
};

// Heads at layer l, W the output matrix (methods of EE-LLM, arXiv 2312.04916, and Kangaroo, 2404.18911):
//   bare       W h                        norm   W Norm(h)
//   mlp        W Norm(r + MLP_e(Norm2(r))), r the layer's post-attention residual, Norm2 the layer's own
//   block      a full extra layer, then norm            attention   a layer without its MLP, then norm
enum class HeadKind : std::uint8_t { bare, norm, mlp, block, attention };
const char* name_of(HeadKind kind);

// How an exit's own tensors begin (EE-Tuning, arXiv 2402.00518): random; as the base has them, the model that training starts from; or
// as copies: head and norm of the final ones, an MLP or a layer of the last layer's (final_head) or of the nearest (copy_layer).
enum class ExitInit : std::uint8_t { random, base, final_head, copy_layer };

// What an exit learns: the labels, or what the model's own final head says of the same tokens, detached: its argmax, or its distribution
// (self-distillation; Kangaroo's - sum_v p_final log p_exit).
enum class Target : std::uint8_t { labels, argmax, distribution };

struct ExitSpec {
  int layer = 0;  // counts from 1: the exit reads that layer's output
  HeadKind head = HeadKind::norm;
  bool shared_output = false;  // with the final head
  bool shared_norm = false;    // with the final head; means nothing for a bare head
  double loss_weight = 0;
  bool confidence_weights = false;
  Target target = Target::labels;
  bool detach = false;  // no gradient into the backbone
  double lr_scale = 1;  // of the exit's own tensors
  ExitInit init = ExitInit::random;
};

// Whether any exit learns from the final head's output.
inline bool learns_from_final(std::span<const ExitSpec> exits) {
  return std::ranges::any_of(exits, [](const ExitSpec& exit) { return exit.target != Target::labels; });
}

}  // namespace offramp
