// The keys of the model, its exits and their losses.
#include "trainer/schema_keys.h"

namespace offramp {
namespace {

bool without_base(const Config& config) { return config.model_from.empty(); }
bool is_gpt2(const Config& config) { return config.model.gpt2(); }
bool with_layerskip(const Config& config) { return config.layerskip.enabled; }
bool without_layerskip(const Config& config) { return !config.layerskip.enabled; }
bool rotates(const Config& config) { return config.layerskip.enabled && config.layerskip.curriculum == "rotational"; }

bool is_llama(const Config& config) { return !config.model.gpt2(); }
bool sizes_heads(const Config& config) { return is_llama(config) && config.model.head_dim > 0; }
bool stretches(const Config& config) { return config.model.rope_scaling.llama3(); }

constexpr std::string_view kOfBase = "the base's; without `from` required";
constexpr std::string_view kArchitecture = "model.architecture";
constexpr KeyCondition kStretched{stretches, "model.rope_scaling.rope_type", "belongs to rope_type: llama3; name that, or remove this key"};
constexpr std::string_view kWithLlama3 = "required with `rope_type: llama3`";
constexpr KeyCondition kNoLayerSkip{without_layerskip, "layerskip", "layerskip sets the weights of all losses; remove this key"};
constexpr KeyCondition kLayerSkip{with_layerskip, "layerskip"};  // the section itself says so: its keys are given nowhere else

}  // namespace

std::vector<SchemaKey> model_keys() {
  return {
      {"model.from", KEY_AT(model_from),
       "A checkpoint, a directory of them or a Hugging Face directory: the weights to start from, at step 0 with a fresh optimizer. The "
       "other "
       "keys are the base's: they may repeat it, not contradict it; dropouts and `initializer_range` may differ."},
      {"model.architecture", KEY_AT(model.architecture), "The backbone.", {.choices = {"llama", "gpt2"}}},
      {"model.num_hidden_layers",
       KEY_AT(model.num_hidden_layers),
       "Layers of the backbone.",
       {.required = without_base, .range = {1, 100000}, .default_note = kOfBase}},
      {"model.hidden_size",
       KEY_AT(model.hidden_size),
       "Width of the residual stream; without `head_dim` a multiple of `num_attention_heads`, a Llama's heads of even size.",
       {.required = without_base, .range = kSize, .default_note = kOfBase}},
      {"model.intermediate_size",
       KEY_AT(model.intermediate_size),
       "Width inside the MLP.",
       {.required = without_base, .range = kSize, .default_note = kOfBase}},
      {"model.num_attention_heads",
       KEY_AT(model.num_attention_heads),
       "Query heads.",
       {.required = without_base, .range = kSize, .default_note = kOfBase}},
      {"model.num_key_value_heads",
       KEY_AT(model.num_key_value_heads),
       "Key and value heads; divides `num_attention_heads`. A GPT-2 has as many.",
       {.range = kSize, .default_note = "`num_attention_heads`"}},
      {"model.head_dim",
       KEY_AT(model.head_dim),
       "Size of a Llama's heads, where they do not divide `hidden_size` among them; even.",
       {.range = kSize,
        .default_note = "`hidden_size / num_attention_heads`",
        .means = {sizes_heads, kArchitecture, "gpt2's heads divide hidden_size among them; remove this key"}}},
      {"model.vocab_size",
       KEY_AT(model.vocab_size),
       "Rows of the embedding; at least the tokenizer's (bytes: 257).",
       {.required = without_base, .range = {2, 2147483647}, .default_note = kOfBase}},
      {"model.max_position_embeddings",
       KEY_AT(model.max_position_embeddings),
       "The longest sequence that the exported model promises; of a GPT-2, the positions that it learns.",
       {.range = kSize, .default_note = "`training.sequence_length`"}},
      {"model.rope_theta",
       KEY_AT(model.rope_theta),
       "Base of a Llama's rotary embedding; a GPT-2, which learns its positions, ignores it.",
       {.range = kPositive}},
      {"model.rms_norm_eps",
       KEY_AT(model.rms_norm_eps),
       "Added to the mean square in a Llama's norms; a GPT-2 has `layer_norm_epsilon`.",
       {.range = kPositive}},
      {"model.layer_norm_epsilon",
       KEY_AT(model.layer_norm_epsilon),
       "Added to the variance in a GPT-2's norms.",
       {.range = kPositive, .means = {is_gpt2, kArchitecture, "llama has RMS norms: name rms_norm_eps, or remove this key"}}},
      {"model.attention_dropout",
       KEY_AT(model.attention_dropout),
       "Probability that training drops a token from what another attends to.",
       {.range = kFraction}},
      {"model.hidden_dropout",
       KEY_AT(model.hidden_dropout),
       "Probability that training drops an element of what the embedding, attention or MLP gives to the residual stream.",
       {.range = kFraction}},
      {"model.tie_word_embeddings", KEY_AT(model.tie_word_embeddings), "One matrix for the embedding and the final output."},
      {"model.initializer_range", KEY_AT(model.initializer_range), "Standard deviation of the initial weights.", {.range = kPositive}},
      {"model.rope_scaling.rope_type",
       KEY_AT(model.rope_scaling.rope_type),
       "What becomes of a Llama's rotary frequencies: nothing, or what Llama 3 does for sequences longer than it was first trained on.",
       {.choices = {"default", "llama3"}, .means = {is_llama, kArchitecture, "gpt2 learns its positions; remove this key"}}},
      {"model.rope_scaling.factor",
       KEY_AT(model.rope_scaling.factor),
       "llama3: by which slow frequencies are divided.",
       {.required = stretches, .range = {.min = 1}, .default_note = kWithLlama3, .means = kStretched}},
      {"model.rope_scaling.low_freq_factor",
       KEY_AT(model.rope_scaling.low_freq_factor),
       "llama3: slow is what turns less often than this over the original positions.",
       {.required = stretches, .range = kPositive, .default_note = kWithLlama3, .means = kStretched}},
      {"model.rope_scaling.high_freq_factor",
       KEY_AT(model.rope_scaling.high_freq_factor),
       "llama3: what turns more often than this stays as it is; more than `low_freq_factor`.",
       {.required = stretches, .range = kPositive, .default_note = kWithLlama3, .means = kStretched}},
      {"model.rope_scaling.original_max_position_embeddings",
       KEY_AT(model.rope_scaling.original_max_position_embeddings),
       "llama3: the original positions.",
       {.required = stretches, .range = kSize, .default_note = kWithLlama3, .means = kStretched}},
  };
}

std::vector<SchemaKey> exit_keys() {
  return {
      {"exits[].layer",
       KEY_AT_EXIT(layer),
       "The exit reads the output of this layer; layers count from 1, at most one exit a layer.",
       {.required = always, .range = {1, 100000}}},
      {"exits[].head",
       KEY_AT_EXIT(head),
       "What stands before the output matrix: nothing, a norm, a norm and an MLP, a layer, or its attention.",
       {.choices = {"bare", "norm", "mlp", "block", "attention"}}},
      {"exits[].output",
       KEY_AT_EXIT(shared_output),
       "The output matrix: its own, or shared with the final head.",
       {.choices = {"own", "shared"}}},
      {"exits[].norm",
       KEY_AT_EXIT(shared_norm),
       "The norm: its own, or shared with the final head; a bare head has none.",
       {.choices = {"own", "shared"}}},
      {"exits[].loss_weight",
       KEY_AT_EXIT(loss_weight),
       "Weight of the exit's loss; the final loss has weight 1. With `layerskip`, which sets all weights, it means nothing.",
       {.required = without_layerskip, .range = kNotNegative, .default_note = "required, but not with `layerskip`"}},
      {"exits[].token_weight",
       KEY_AT_EXIT(confidence_weights),
       "Weight of each token in the exit's loss: 1, or the exit's own confidence.",
       {.choices = {"none", "confidence"}}},
      {"exits[].target",
       KEY_AT_EXIT(target),
       "What the exit learns, with `freeze: backbone`: the labels, or what the model's own final head says: its likeliest token, or its "
       "distribution. With such an exit all layers run, and logs have every exit's agreement with the final head and expected acceptance.",
       {.choices = {"labels", "argmax", "distribution"}}},
      {"exits[].detach", KEY_AT_EXIT(detach),
       "No gradient from the exit into the backbone; a shared output or norm is still trained by both."},
      {"exits[].lr_scale", KEY_AT_EXIT(lr_scale), "Factor on the learning rate of the exit's own tensors.", {.range = kNotNegative}},
      {"exits[].init",
       KEY_AT_EXIT(init),
       "How the exit's own tensors begin: random; base: as `model.from` has them; final: copies of the final head and norm and of the last "
       "layer; copy_layer: the same, but of the exit's own layer for an MLP and of the one after it for a block or attention.",
       {.choices = {"random", "base", "final", "copy_layer"}, .default_note = "`base` with `model.from`, else `random`"}},
  };
}

std::vector<SchemaKey> loss_keys() {
  return {
      {"exit_loss.schedule",
       KEY_AT(exit_loss.schedule),
       "How the factor on every exit's loss weight goes from `start_scale` to 1.",
       {.choices = {"constant", "linear", "cosine"}, .means = kNoLayerSkip}},
      {"exit_loss.start_scale",
       KEY_AT(exit_loss.start_scale),
       "The factor before step 1; constant ignores it.",
       {.range = kNotNegative, .means = kNoLayerSkip}},
      {"exit_loss.warmup_steps",
       KEY_AT(exit_loss.warmup_steps),
       "The factor is 1 from this step on; may exceed `training.steps`.",
       {.range = kSteps, .means = kNoLayerSkip}},
      {"layerskip.p_max",
       KEY_AT(layerskip.p_max),
       "LayerSkip's recipe, in use where this section is: the probability that a sample skips the last layer, at its highest; less for "
       "lower layers, 0 for the first.",
       {.required = with_layerskip, .range = kFraction, .default_note = "required with `layerskip`", .means = kLayerSkip}},
      {"layerskip.time",
       KEY_AT(layerskip.time),
       "How that probability goes in time: constant (from trained weights), or rising from 0 to the last step (from scratch).",
       {.choices = {"constant", "exponential"}, .means = kLayerSkip}},
      {"layerskip.e_scale",
       KEY_AT(layerskip.e_scale),
       "Weight of the exits' losses against the final one's.",
       {.range = kNotNegative, .means = kLayerSkip}},
      {"layerskip.curriculum",
       KEY_AT(layerskip.curriculum),
       "Which exits have a loss at a step: those whose turn it is, or more and more from the last layer down. The final loss always "
       "counts.",
       {.choices = {"rotational", "gradual"}, .means = kLayerSkip}},
      {"layerskip.rotation",
       KEY_AT(layerskip.rotation),
       "rotational only: of this many layers in a row, one has its turn at each step; 1: all of them.",
       {.range = {1, 1e15},
        .means = {rotates, "layerskip.curriculum", "gradual takes no turns; name curriculum: rotational, or remove it"}}},
  };
}

}  // namespace offramp
