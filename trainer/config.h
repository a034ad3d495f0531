// Config: one job, as the user wrote it and as every rank uses it. Values only; every room brings its own options.
// read_config() (trainer/yaml.h) makes one from YAML or throws the whole list of what is wrong with it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.h"
#include "optim/layerskip.h"
#include "optim/optimizer.h"
#include "optim/step_plan.h"

namespace offramp {

struct ExitLossConfig {
  std::string schedule = "constant";  // constant | linear | cosine: scales every exit's loss weight
  double start_scale = 0;
  std::int64_t warmup_steps = 0;
};
struct InFlight {  // microbatches that a stage may keep: 1f1b | 1f1b+K | N | any
  std::string text = "1f1b";
};
struct LayerList {  // layers of each stage; empty: auto, so that the slowest stage has as little work as can be
  std::vector<int> layers;
};
inline constexpr std::string_view kScheduleFile = "file:";  // a schedule's name that begins so is a file's
struct ParallelConfig {
  int tensor_parallel_size = 1, pipeline_parallel_size = 1;
  int virtual_stages = 1;                  // stages a pipeline rank
  int data_parallel_size = 0;              // 0: auto, world size / (tensor_parallel_size * pipeline_parallel_size)
  bool sequence_parallel = false;          // means nothing to one tensor rank
  int zero_stage = 0;                      // 1: optimizer state and update divided over data ranks
  std::string schedule = "1f1b";           // gpipe | 1f1b | interleaved | zero_bubble | auto | file:PATH
  std::string exit_placement = "auto";     // after_forward | before_backward | auto
  std::string recompute = "none";          // none | selective | full
  std::string fill_bubbles = "none";       // none | warmup | cooldown
  bool shard_heads_over_pipeline = false;  // means nothing to one pipeline rank
  LayerList partition;
  InFlight in_flight;             // of schedule auto
  std::int64_t memory_limit = 0;  // bytes of a rank; 0: none

  std::int64_t stages() const { return std::int64_t{pipeline_parallel_size} * virtual_stages; }
  std::int64_t ranks_per_replica() const { return std::int64_t{tensor_parallel_size} * pipeline_parallel_size; }
};
struct TrainingConfig {
  std::int64_t sequence_length = 0, micro_batch_size = 0, global_batch_size = 0, steps = 0;
  std::int64_t stop_at = -1;  // ends the run after this step without changing `steps` in any schedule; -1: at `steps`
  std::uint64_t seed = 1234;
  std::string device = "cpu", precision = "fp32";  // precision fp32 | bf16
  int threads = 1;
  std::string freeze = "none";                                    // none | backbone: only exits' own tensors learn
  std::int64_t validation_interval = 0, validation_samples = 64;  // interval 0: only after the last step
  double timeout_s = 300;
  std::string nan = "abort";  // abort | skip
};
struct TuningConfig {
  std::string feature_cache;           // a directory; empty: the backbone runs in every step
  std::string feature_dtype = "fp32";  // fp32 | bf16
};
struct CorpusConfig {
  std::string path;  // Megatron .bin/.idx prefix
  double weight = 1;
};
struct DataConfig {
  std::vector<CorpusConfig> train, validation;
  bool shuffle = true, document_mask = false;
  std::string loss_mask;
};
struct CheckpointConfig {
  std::string directory;      // empty: no checkpoints
  std::int64_t interval = 0;  // steps; 0: after the last one only
  int keep = 0;               // 0: all
};
struct LoggingConfig {
  std::string directory;  // empty: no files
  std::int64_t interval = 1;
  bool tensorboard = true;
  std::array<std::int64_t, 2> profile_steps = {0, 0};  // first and last; zeros: none
};

struct Config {
  std::string model_from;  // the base that weights and sizes come from (trainer/base_model.h); empty: none
  ModelConfig model;
  std::vector<ExitSpec> exits;  // sorted by layer
  ExitLossConfig exit_loss;
  LayerSkipConfig layerskip;
  ParallelConfig parallel;
  TrainingConfig training;
  TuningConfig tuning;
  SupernetConfig supernet;
  OptimizerConfig optimizer;
  DataConfig data;
  std::string export_hf;  // empty: no export
  CheckpointConfig checkpoint;
  LoggingConfig logging;

  bool frozen_backbone() const { return training.freeze == "backbone"; }
  bool caches_features() const { return !tuning.feature_cache.empty(); }
  // Layers that training runs: with a frozen backbone none after the last exit, unless exits learn from the final head.
  std::int64_t layers() const {
    return frozen_backbone() && !exits.empty() && !learns_from_final(exits) ? exits.back().layer : model.num_hidden_layers;
  }
  // Microbatches a rank runs a step.
  std::int64_t microbatches(int data_size) const { return training.global_batch_size / (training.micro_batch_size * data_size); }
  std::int64_t last_step() const { return training.stop_at < 0 || training.stop_at > training.steps ? training.steps : training.stop_at; }
};

}  // namespace offramp
