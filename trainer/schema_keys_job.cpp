// The keys of how a job runs: layout, training, optimizer, data, output.
#include "trainer/schema_keys.h"

namespace offramp {

namespace {

bool freezes(const Config& config) { return config.frozen_backbone(); }
bool caches(const Config& config) { return config.caches_features(); }
bool chooses_in_flight(const Config& config) {
  return config.parallel.schedule == "auto" || (config.supernet.enabled && config.parallel.schedule == "1f1b");
}

}  // namespace

std::vector<SchemaKey> parallel_keys() {
  return {
      {"parallel.tensor_parallel_size",
       KEY_AT(parallel.tensor_parallel_size),
       "Ranks that every layer, embedding and head is divided among; divides `num_key_value_heads` and `intermediate_size`.",
       {.range = kSize}},
      {"parallel.pipeline_parallel_size",
       KEY_AT(parallel.pipeline_parallel_size),
       "Stages that the layers are divided into.",
       {.range = kSize}},
      {"parallel.virtual_stages",
       KEY_AT(parallel.virtual_stages),
       "Stages on each pipeline rank, dealt out in turn: of `schedule: interleaved`, `gpipe`, `auto` or a file.",
       {.range = kSize}},
      {"parallel.data_parallel_size",
       KEY_AT(parallel.data_parallel_size),
       "Replicas of the model; auto: ranks / (`tensor_parallel_size` × `pipeline_parallel_size`).",
       {.range = kSize, .zero_word = "auto"}},
      {"parallel.sequence_parallel", KEY_AT(parallel.sequence_parallel),
       "Divide the tokens too among tensor-parallel ranks, between the matrix products; with one such rank it changes nothing."},
      {"parallel.zero_stage",
       KEY_AT(parallel.zero_stage),
       "1: the optimizer's state and work are divided among the replicas (ZeRO-1).",
       {.range = {0, 1}, .range_note = "stages 2 and 3 are not planned"}},
      {"parallel.partition",
       KEY_AT(parallel.partition),
       "Layers of each stage; auto: so that the rank with the most work, exits and final head counted, has as little as can be.",
       {.range = kSize}},
      {"parallel.schedule",
       KEY_AT(parallel.schedule),
       "Order of the forward and backward passes; auto: the shortest that a search by their FLOPs finds; file: what stands there "
       "(docs/schedules.md).",
       {.choices = {"gpipe", "1f1b", "interleaved", "zero_bubble", "auto", "file:PATH"}}},
      {"parallel.exit_placement",
       KEY_AT(parallel.exit_placement),
       "When exits run; auto: where the step becomes shortest, by FLOPs. `schedule: auto`, or a file, places them itself.",
       {.choices = {"after_forward", "before_backward", "auto"}}},
      {"parallel.shard_heads_over_pipeline", KEY_AT(parallel.shard_heads_over_pipeline),
       "Every output matrix, the final one too, is split by vocabulary over all pipeline ranks; their work is placed by FLOPs, whatever "
       "`exit_placement` says."},
      {"parallel.in_flight",
       KEY_AT(parallel.in_flight),
       "Of `schedule: auto`: microbatches that a stage may keep from their forward to their weight gradient: as many as 1F1B does (of "
       "several stages a rank, interleaved), K more, N, or any. Of a supernet's `1f1b`: passes, as many as 1F1B does, or K more.",
       {.default_note = "`1f1b`; `any` with `memory_limit`",
        .means = {chooses_in_flight, "parallel.schedule",
                  "only schedule: auto, or a supernet's 1f1b, chooses how many; name that, or remove this key"}}},
      {"parallel.memory_limit",
       KEY_AT(parallel.memory_limit),
       "Bytes that a rank's plan may take: `auto`, of schedules and exit placements, keeps within them, what is named is refused beyond. "
       "Beside `in_flight`, the tighter of both holds.",
       {.range = kSteps, .zero_word = "none"}},
      {"parallel.recompute",
       KEY_AT(parallel.recompute),
       "What a backward makes again rather than keep: attention's output (selective), or the whole forward of the stage (full).",
       {.choices = {"none", "selective", "full"}}},
      {"parallel.fill_bubbles",
       KEY_AT(parallel.fill_bubbles),
       "Of `schedule: 1f1b`: partial microbatches, of samples beyond `global_batch_size`, in the gap before each stage's first "
       "backward, for the first stages' exits, or after its last, for the last stages. Gradients stay means.",
       {.choices = {"none", "warmup", "cooldown"}}},
  };
}

std::vector<SchemaKey> training_keys() {
  return {
      {"training.sequence_length", KEY_AT(training.sequence_length), "Tokens of a sample.", {.required = always, .range = kSize}},
      {"training.micro_batch_size",
       KEY_AT(training.micro_batch_size),
       "Samples a replica computes at once.",
       {.required = always, .range = kSize}},
      {"training.global_batch_size",
       KEY_AT(training.global_batch_size),
       "Samples of a step; a multiple of `micro_batch_size` × `data_parallel_size`.",
       {.required = always, .range = kSize}},
      {"training.steps",
       KEY_AT(training.steps),
       "Steps of the whole run, which the learning-rate schedule spans; 0: validate and export only.",
       {.required = always, .range = kSteps}},
      {"training.stop_at",
       KEY_AT(training.stop_at),
       "End after this step, without changing any schedule.",
       {.range = kSteps, .default_note = "`steps`"}},
      {"training.seed", KEY_AT(training.seed), "Of the initial weights and the order of the data.", {.range = {0, 9.2e18}}},
      {"training.device", KEY_AT(training.device), "What computes.", {.choices = {"cpu"}}},
      {"training.precision",
       KEY_AT(training.precision),
       "Format of activations, and of weights in matrix products; the weights themselves and all sums stay fp32.",
       {.choices = {"fp32", "bf16"}}},
      {"training.threads", KEY_AT(training.threads), "Threads of each rank; part of what reproduces the same bits.", {.range = {1, 1024}}},
      {"training.validation_interval",
       KEY_AT(training.validation_interval),
       "Steps between validations; 0: after the last step only.",
       {.range = kSteps}},
      {"training.validation_samples",
       KEY_AT(training.validation_samples),
       "Samples of each validation set to use, at most.",
       {.range = kSize}},
      {"training.timeout_s",
       KEY_AT(training.timeout_s),
       "Seconds without progress after which the job gives up (exit 7).",
       {.range = {.min = 0, .max = 1e9, .above_min = true}}},
      {"training.freeze",
       KEY_AT(training.freeze),
       "backbone: only the exits' own tensors learn, each exit clipped by the norm of its own gradients, whatever else stands in "
       "`parallel.schedule` (EE-Tuning). Layers after the last exit are neither loaded nor run.",
       {.choices = {"none", "backbone"}}},
      {"training.nan",
       KEY_AT(training.nan),
       "What a NaN or infinite gradient does: end the job (exit 6), or skip the step.",
       {.choices = {"abort", "skip"}}},
  };
}

std::vector<SchemaKey> tuning_keys() {
  return {
      {"tuning.feature_cache",
       KEY_AT(tuning.feature_cache),
       "Directory for what exits, and the final head where they learn from it, read of a frozen backbone: it runs once over all data, in "
       "the layout of `parallel`; every step then reads the directory, and all ranks are replicas. null: none.",
       {.means = {freezes, "training.freeze",
                  "keeps what exits read of a backbone that stays as it is: set training.freeze: backbone, or remove this key"}}},
      {"tuning.feature_dtype",
       KEY_AT(tuning.feature_dtype),
       "Format of the features in that directory.",
       {.choices = {"fp32", "bf16"},
        .default_note = "`training.precision`",
        .means = {caches, "tuning.feature_cache", "is the format of what tuning.feature_cache keeps: name that, or remove this key"}}},
  };
}

std::vector<SchemaKey> optimizer_keys() {
  return {
      {"optimizer.name", KEY_AT(optimizer.name), "The update rule.", {.choices = {"adamw", "sgd"}}},
      {"optimizer.lr", KEY_AT(optimizer.lr), "Learning rate after the warm-up.", {.required = always, .range = kPositive}},
      {"optimizer.betas", KEY_AT(optimizer.betas), "AdamW's decay of the two moments.", {.range = kFraction}},
      {"optimizer.eps", KEY_AT(optimizer.eps), "AdamW's addend in the denominator.", {.range = kPositive}},
      {"optimizer.weight_decay",
       KEY_AT(optimizer.weight_decay),
       "Decoupled decay of tensors of two or more dimensions.",
       {.range = kNotNegative}},
      {"optimizer.clip_grad_norm",
       KEY_AT(optimizer.clip_grad_norm),
       "Largest global gradient norm; 0: no clipping.",
       {.range = kNotNegative}},
      {"optimizer.momentum", KEY_AT(optimizer.momentum), "SGD's momentum.", {.range = kFraction}},
      {"optimizer.nesterov", KEY_AT(optimizer.nesterov), "Nesterov's form of SGD; needs `momentum`."},
      {"optimizer.lr_schedule.name",
       KEY_AT(optimizer.lr_schedule.name),
       "The learning rate after the warm-up.",
       {.choices = {"constant", "linear", "cosine", "wsd"}}},
      {"optimizer.lr_schedule.warmup_steps",
       KEY_AT(optimizer.lr_schedule.warmup_steps),
       "Steps of linear warm-up; may exceed `training.steps`.",
       {.range = kSteps}},
      {"optimizer.lr_schedule.min_lr",
       KEY_AT(optimizer.lr_schedule.min_lr),
       "Learning rate at the last step; at most `lr`.",
       {.range = kNotNegative}},
      {"optimizer.lr_schedule.decay_steps",
       KEY_AT(optimizer.lr_schedule.decay_steps),
       "wsd only, required there: the last steps, which decay.",
       {.range = kSteps}},
  };
}

std::vector<SchemaKey> data_keys() {
  return {
      {"data.train",
       KEY_AT(data.train),
       "Prefix of a Megatron .bin/.idx pair, or a list of `{path, weight}`.",
       {.required = always, .range = kPositive}},
      {"data.validation",
       KEY_AT(data.validation),
       "The same, each set measured alone and without a weight; null: no validation.",
       {.range = kPositive, .default_note = "`null`"}},
      {"data.shuffle", KEY_AT(data.shuffle), "Permute the samples of every epoch."},
      {"data.document_mask", KEY_AT(data.document_mask), "Attention stops and positions restart at the end of a document."},
      {"data.loss_mask", KEY_AT(data.loss_mask), "Prefix of a mask of the training corpus: which targets count; null: all."},
      {"export.hf", KEY_AT(export_hf), "Directory for the Hugging Face model, written when training ends; null: none."},
      {"checkpoint.directory", KEY_AT(checkpoint.directory),
       "Directory of checkpoints, `step-N/` each; null: none. One is written after the last step in any case."},
      {"checkpoint.interval", KEY_AT(checkpoint.interval), "Steps between checkpoints; 0: after the last step only.", {.range = kSteps}},
      {"checkpoint.keep", KEY_AT(checkpoint.keep), "Newest checkpoints to keep, of those that verify; 0: all.", {.range = {0, 1e9}}},
      {"logging.directory", KEY_AT(logging.directory), "Directory of metrics.jsonl and the TensorBoard files; null: none."},
      {"logging.interval", KEY_AT(logging.interval), "Steps between logged lines.", {.range = {1, 1e15}}},
      {"logging.tensorboard", KEY_AT(logging.tensorboard), "Write TensorBoard event files beside metrics.jsonl."},
      {"logging.profile_steps",
       KEY_AT(logging.profile_steps),
       "`[first, last]`: write a trace and a profile of these steps into the directory; null: none.",
       {.range = {1, 1e15}}},
  };
}
}  // namespace offramp
