#include "trainer/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace offramp {
namespace {

constexpr ValueRange kSize{1, 2147483647}, kCount{0, 2147483647}, kSteps{0, 1e15}, kPositive{.min = 0, .above_min = true},
    kNotNegative{.min = 0};
constexpr ValueRange kFraction{.min = 0, .max = 1, .below_max = true};

#define AT(member) [](Config& c, std::size_t) -> KeyField { return &c.member; }
#define AT_EXIT(member) [](Config& c, std::size_t i) -> KeyField { return &c.exits[i].member; }

std::vector<SchemaKey> model_keys() {
  return {
      {"model.architecture", AT(model.architecture), "The backbone.", {.choices = {"llama"}}},
      {"model.num_hidden_layers", AT(model.num_hidden_layers), "Layers of the backbone.", {.required = true, .range = {1, 100000}}},
      {"model.hidden_size",
       AT(model.hidden_size),
       "Width of the residual stream; a multiple of `num_attention_heads`, heads of even size.",
       {.required = true, .range = kSize}},
      {"model.intermediate_size", AT(model.intermediate_size), "Width inside the MLP.", {.required = true, .range = kSize}},
      {"model.num_attention_heads", AT(model.num_attention_heads), "Query heads.", {.required = true, .range = kSize}},
      {"model.num_key_value_heads",
       AT(model.num_key_value_heads),
       "Key and value heads; divides `num_attention_heads`.",
       {.range = kSize, .default_note = "`num_attention_heads`"}},
      {"model.vocab_size",
       AT(model.vocab_size),
       "Rows of the embedding; at least the tokenizer's (bytes: 257).",
       {.required = true, .range = {2, 2147483647}}},
      {"model.max_position_embeddings",
       AT(model.max_position_embeddings),
       "The longest sequence that the exported model promises.",
       {.range = kSize, .default_note = "`training.sequence_length`"}},
      {"model.rope_theta", AT(model.rope_theta), "Base of the rotary embedding.", {.range = kPositive}},
      {"model.rms_norm_eps", AT(model.rms_norm_eps), "Added to the mean square in norms.", {.range = kPositive}},
      {"model.tie_word_embeddings", AT(model.tie_word_embeddings), "One matrix for the embedding and the final output."},
      {"model.initializer_range", AT(model.initializer_range), "Standard deviation of the initial weights.", {.range = kPositive}},
  };
}

std::vector<SchemaKey> exit_keys() {
  return {
      {"exits[].layer",
       AT_EXIT(layer),
       "The exit reads the output of this layer; layers count from 1, at most one exit a layer.",
       {.required = true, .range = {1, 100000}}},
      {"exits[].head",
       AT_EXIT(head),
       "What stands before the output matrix: nothing, a norm, a norm and an MLP, a layer, or its attention.",
       {.choices = {"bare", "norm", "mlp", "block", "attention"}}},
      {"exits[].output",
       AT_EXIT(shared_output),
       "The output matrix: its own, or shared with the final head.",
       {.choices = {"own", "shared"}}},
      {"exits[].norm",
       AT_EXIT(shared_norm),
       "The norm: its own, or shared with the final head; a bare head has none.",
       {.choices = {"own", "shared"}}},
      {"exits[].loss_weight",
       AT_EXIT(loss_weight),
       "Weight of the exit's loss; the final loss has weight 1.",
       {.required = true, .range = kNotNegative}},
      {"exits[].token_weight",
       AT_EXIT(confidence_weights),
       "Weight of each token in the exit's loss: 1, or the exit's own confidence.",
       {.choices = {"none", "confidence"}}},
      {"exits[].detach", AT_EXIT(detach), "No gradient from the exit into the backbone; a shared output or norm is still trained by both."},
      {"exits[].lr_scale", AT_EXIT(lr_scale), "Factor on the learning rate of the exit's own tensors.", {.range = kNotNegative}},
      {"exit_loss.schedule",
       AT(exit_loss.schedule),
       "How the factor on every exit's loss weight goes from `start_scale` to 1.",
       {.choices = {"constant", "linear", "cosine"}}},
      {"exit_loss.start_scale", AT(exit_loss.start_scale), "The factor before step 1; constant ignores it.", {.range = kNotNegative}},
      {"exit_loss.warmup_steps",
       AT(exit_loss.warmup_steps),
       "The factor is 1 from this step on; may exceed `training.steps`.",
       {.range = kSteps}},
  };
}

std::vector<SchemaKey> parallel_keys() {
  return {
      {"parallel.pipeline_parallel_size",
       AT(parallel.pipeline_parallel_size),
       "Stages that the layers are divided into.",
       {.range = kSize}},
      {"parallel.data_parallel_size",
       AT(parallel.data_parallel_size),
       "Replicas of the pipeline; auto: ranks / `pipeline_parallel_size`.",
       {.range = kSize, .zero_word = "auto"}},
      {"parallel.schedule", AT(parallel.schedule), "Order of the forward and backward passes.", {.choices = {"gpipe", "1f1b"}}},
  };
}

std::vector<SchemaKey> training_keys() {
  return {
      {"training.sequence_length", AT(training.sequence_length), "Tokens of a sample.", {.required = true, .range = kSize}},
      {"training.micro_batch_size",
       AT(training.micro_batch_size),
       "Samples a replica computes at once.",
       {.required = true, .range = kSize}},
      {"training.global_batch_size",
       AT(training.global_batch_size),
       "Samples of a step; a multiple of `micro_batch_size` × `data_parallel_size`.",
       {.required = true, .range = kSize}},
      {"training.steps",
       AT(training.steps),
       "Steps of the whole run, which the learning-rate schedule spans; 0: validate and export only.",
       {.required = true, .range = kSteps}},
      {"training.stop_at",
       AT(training.stop_at),
       "End after this step, without changing any schedule.",
       {.range = kSteps, .default_note = "`steps`"}},
      {"training.seed", AT(training.seed), "Of the initial weights and the order of the data.", {.range = {0, 9.2e18}}},
      {"training.device", AT(training.device), "What computes.", {.choices = {"cpu"}}},
      {"training.precision", AT(training.precision), "Format of weights and activations in matrix products.", {.choices = {"fp32"}}},
      {"training.threads", AT(training.threads), "Threads of each rank; part of what reproduces the same bits.", {.range = {1, 1024}}},
      {"training.validation_interval",
       AT(training.validation_interval),
       "Steps between validations; 0: after the last step only.",
       {.range = kSteps}},
      {"training.validation_samples", AT(training.validation_samples), "Samples of each validation set to use, at most.", {.range = kSize}},
      {"training.timeout_s",
       AT(training.timeout_s),
       "Seconds without progress after which the job gives up (exit 7).",
       {.range = {.min = 0, .max = 1e9, .above_min = true}}},
      {"training.nan",
       AT(training.nan),
       "What a NaN or infinite gradient does: end the job (exit 6), or skip the step.",
       {.choices = {"abort", "skip"}}},
  };
}

std::vector<SchemaKey> optimizer_keys() {
  return {
      {"optimizer.name", AT(optimizer.name), "The update rule.", {.choices = {"adamw", "sgd"}}},
      {"optimizer.lr", AT(optimizer.lr), "Learning rate after the warm-up.", {.required = true, .range = kPositive}},
      {"optimizer.betas", AT(optimizer.betas), "AdamW's decay of the two moments.", {.range = kFraction}},
      {"optimizer.eps", AT(optimizer.eps), "AdamW's addend in the denominator.", {.range = kPositive}},
      {"optimizer.weight_decay",
       AT(optimizer.weight_decay),
       "Decoupled decay of tensors of two or more dimensions.",
       {.range = kNotNegative}},
      {"optimizer.clip_grad_norm", AT(optimizer.clip_grad_norm), "Largest global gradient norm; 0: no clipping.", {.range = kNotNegative}},
      {"optimizer.momentum", AT(optimizer.momentum), "SGD's momentum.", {.range = kFraction}},
      {"optimizer.nesterov", AT(optimizer.nesterov), "Nesterov's form of SGD; needs `momentum`."},
      {"optimizer.lr_schedule.name",
       AT(optimizer.lr_schedule.name),
       "The learning rate after the warm-up.",
       {.choices = {"constant", "linear", "cosine", "wsd"}}},
      {"optimizer.lr_schedule.warmup_steps",
       AT(optimizer.lr_schedule.warmup_steps),
       "Steps of linear warm-up; may exceed `training.steps`.",
       {.range = kSteps}},
      {"optimizer.lr_schedule.min_lr",
       AT(optimizer.lr_schedule.min_lr),
       "Learning rate at the last step; at most `lr`.",
       {.range = kNotNegative}},
      {"optimizer.lr_schedule.decay_steps",
       AT(optimizer.lr_schedule.decay_steps),
       "wsd only, required there: the last steps, which decay.",
       {.range = kSteps}},
  };
}

std::vector<SchemaKey> data_keys() {
  return {
      {"data.train",
       AT(data.train),
       "Prefix of a Megatron .bin/.idx pair, or a list of `{path, weight}`.",
       {.required = true, .range = kPositive}},
      {"data.validation",
       AT(data.validation),
       "The same, each set measured alone and without a weight; null: no validation.",
       {.range = kPositive, .default_note = "`null`"}},
      {"data.shuffle", AT(data.shuffle), "Permute the samples of every epoch."},
      {"data.document_mask", AT(data.document_mask), "Attention stops and positions restart at the end of a document."},
      {"data.loss_mask", AT(data.loss_mask), "Prefix of a mask of the training corpus: which targets count; null: all."},
      {"export.hf", AT(export_hf), "Directory for the Hugging Face model, written when training ends; null: none."},
      {"logging.directory", AT(logging.directory), "Directory of metrics.jsonl and the TensorBoard files; null: none."},
      {"logging.interval", AT(logging.interval), "Steps between logged lines.", {.range = {1, 1e15}}},
      {"logging.tensorboard", AT(logging.tensorboard), "Write TensorBoard event files beside metrics.jsonl."},
  };
}
#undef AT
#undef AT_EXIT

std::size_t edits(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));  // d[i][j]: a's first i to b's first j
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

std::string lower(std::string_view text) {
  std::string result(text.substr(0, 64));
  std::transform(result.begin(), result.end(), result.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return result;
}

// How far a word is from what may have been meant. A key cut short, or drawn out, is one slip.
std::size_t distance(std::string_view word, std::string_view candidate) {
  const bool part = std::min(word.size(), candidate.size()) >= 3 && (candidate.starts_with(word) || word.starts_with(candidate));
  return word == candidate ? 0 : part ? 1 : edits(word, candidate);
}

std::string join(const std::string_view section, const std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

// A key of another section with this name: `training.lr` is optimizer.lr.
const SchemaKey* same_name_elsewhere(std::string_view name) {
  for (const SchemaKey& key : schema()) {
    if (key.path.size() > name.size() && key.path.ends_with(name) && key.path[key.path.size() - name.size() - 1] == '.') return &key;
  }
  return nullptr;
}

}  // namespace

const std::vector<SchemaKey>& schema() {
  static const std::vector<SchemaKey> all = [] {
    std::vector<SchemaKey> keys;
    for (const auto& part : {model_keys(), exit_keys(), parallel_keys(), training_keys(), optimizer_keys(), data_keys()}) {
      keys.insert(keys.end(), part.begin(), part.end());
    }
    return keys;
  }();
  return all;
}

const SchemaKey* find_key(std::string_view path) {
  const auto found = std::find_if(schema().begin(), schema().end(), [&](const SchemaKey& key) { return key.path == path; });
  return found == schema().end() ? nullptr : &*found;
}

bool is_section(std::string_view path) {
  return std::any_of(schema().begin(), schema().end(), [&](const SchemaKey& key) {
    return key.path.size() > path.size() && key.path.starts_with(path) && key.path[path.size()] == '.';
  });
}

std::vector<std::string> keys_below(std::string_view section) {
  std::vector<std::string> names;
  for (const SchemaKey& key : schema()) {
    std::string_view rest = key.path;
    if (!section.empty()) {
      if (!rest.starts_with(section) || rest.size() <= section.size() || rest[section.size()] != '.') continue;
      rest.remove_prefix(section.size() + 1);
    }
    rest = rest.substr(0, rest.find_first_of(".["));
    if (std::find(names.begin(), names.end(), rest) == names.end()) names.emplace_back(rest);
  }
  if (section.empty()) names.emplace_back("extends");
  return names;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  const std::string target = lower(word);
  return *std::min_element(candidates.begin(), candidates.end(),
                           [&](const std::string& a, const std::string& b) { return distance(target, a) < distance(target, b); });
}

std::optional<std::string> not_planned(std::string_view word) {
  const std::string w = lower(word);
  const auto has = [&](std::string_view part) { return w.find(part) != std::string::npos; };
  if (has("expert") || has("moe") || has("mixtral")) return "mixture of experts is not planned";
  if (has("context_parallel") || w == "cp_size" || has("ring_attention")) return "context parallelism is not planned";
  if (has("fp8") || has("float8")) return "FP8 is not planned";
  if (w == "mup" || w.starts_with("mup_") || w.ends_with("_mup") || has("\u03bcp") || has("\u00b5p")) return "\u03bcP is not planned";
  return std::nullopt;
}

std::string unknown_key(std::string_view section, std::string_view key) {
  const std::string full = quote(join(section, key));
  if (const auto why = not_planned(key)) return fmt::format("unknown key {}: {}", full, *why);
  const std::vector<std::string> valid = keys_below(section);
  const std::string close = nearest(key, valid);
  const bool typo = distance(lower(key), close) <= 1 + key.size() / 4;
  if (typo) return fmt::format("unknown key {}: did you mean {}?", full, close);
  if (const SchemaKey* other = same_name_elsewhere(key)) return fmt::format("unknown key {}: did you mean {}?", full, other->path);
  return fmt::format("unknown key {}: the nearest is {}; valid here: {}", full, close, fmt::join(valid, ", "));
}

}  // namespace offramp
