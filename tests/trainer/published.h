// Step times and activations that Megatron-LM's authors published (Korthikanti et al., arXiv 2205.05198, table 5 and the text around it):
// A100s of 80 GB, eight a node, 16 bits, sequences of 2,048 tokens, 51,200 words, tensor 8, no data parallelism. As jobs that
// `offramp plan` can plan: what bench_published prints and published_test.cpp bounds.
#pragma once
#include <vector>

#include "parallel/plan.h"

namespace offramp::testing {

struct PublishedModel {
  const char* name = "";
  std::int64_t hidden = 0, layers = 0, heads = 0;
  int pipeline = 1, stages_per_rank = 1, batch = 0, micro_batch = 1;
};

struct PublishedRow {
  PublishedModel model;
  const char* recompute = "full";  // selective: with sequence parallelism, as published
  double seconds = 0, gib = 0;     // of a step; of activations on the first rank; 0: not published
  bool fitted = false;             // configs/clusters/a100.yaml was chosen by this row among others
};

inline std::vector<PublishedRow> published_rows() {
  const PublishedModel b22{"22B", 6144, 48, 64, 1, 1, 4, 4}, b530{"530B", 20480, 105, 128, 35, 3, 280};
  const PublishedModel b175{"175B", 12288, 96, 96, 8, 3, 64}, t1{"1T", 25600, 128, 160, 64, 1, 512};
  return {{.model = b22, .recompute = "none", .gib = 59.25},
          {.model = b22, .recompute = "full", .seconds = 1.42, .fitted = true},
          {.model = b22, .recompute = "selective", .seconds = 1.10, .gib = 9.56, .fitted = true},
          {.model = b530, .recompute = "none", .gib = 114.0},
          {.model = b530, .recompute = "full", .seconds = 49.05, .fitted = true},
          {.model = b530, .recompute = "selective", .seconds = 37.83, .gib = 23.1, .fitted = true},
          {.model = b175, .recompute = "full", .seconds = 18.13},
          {.model = b175, .recompute = "selective", .seconds = 13.75},
          {.model = t1, .recompute = "full", .seconds = 94.42},
          {.model = t1, .recompute = "selective", .seconds = 71.49}};
}

inline PlannedJob job_of(const PublishedRow& row) {
  const PublishedModel& m = row.model;
  MachineOptions o;
  o.model.architecture = "gpt2";
  o.model.num_hidden_layers = m.layers, o.model.hidden_size = m.hidden, o.model.intermediate_size = 4 * m.hidden;
  o.model.num_attention_heads = o.model.num_key_value_heads = m.heads;
  o.model.vocab_size = 51200, o.model.max_position_embeddings = 2048;
  o.model.attention_dropout = o.model.hidden_dropout = 0.1;
  o.model.tie_word_embeddings = true;
  o.schedule = m.stages_per_rank > 1 ? "interleaved" : "1f1b";
  o.virtual_stages = m.stages_per_rank;
  o.exit_placement = "before_backward";
  o.recompute = row.recompute;
  o.sequence_parallel = o.recompute == "selective";
  o.micro_batch_size = m.micro_batch, o.sequence_length = 2048, o.microbatches = m.batch / m.micro_batch;
  o.optimizer_state = {"exp_avg", "exp_avg_sq"};
  o.precision = DType::bf16;
  return {o, {.tensor = 8, .pipeline = m.pipeline, .data = 1}, {}};
}

struct Predicted {
  double seconds = 0, gib = 0;
};
inline Predicted predict(const PublishedRow& row, const Cluster& cluster) {
  const PlannedJob job = job_of(row);
  if (row.gib == 0) return {plan_time(job, cluster).step_s, 0};
  const StepPlan plan = plan_step(job, cluster);
  return {plan.step_s, static_cast<double>(plan.ranks[0].memory.activations) / 0x1p30};
}

// 0.1: a tenth too much.
inline double error_of(double predicted, double published) { return predicted / published - 1; }

}  // namespace offramp::testing
