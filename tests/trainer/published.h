// Step times and activations that Megatron-LM's authors measured on A100s of 80 GB, eight a node, in 16 bits (Korthikanti et al., arXiv
// 2205.05198, table 5 and figure 7), and what `offramp plan` says of the same jobs: what bench_published prints and PublishedTest bounds.
#pragma once
#include <numeric>

#include "parallel/plan.h"
#include "parallel/step_schedule.h"
#include "parallel/unfused_memory.h"

namespace offramp::testing {

struct PublishedRow {
  const char* model = "";
  std::int64_t hidden = 0, layers = 0, heads = 0;
  int pipeline = 1, stages_per_rank = 1, batch = 0, micro_batch = 1;
  bool kept = false;  // sequence parallelism and selective recompute; otherwise neither, and full recompute
  double seconds = 0;
  double gib = 0;  // of activations on the first rank; 0: not published
  bool fitted = false;
};

inline const std::vector<PublishedRow>& published_rows() {
  static const std::vector<PublishedRow> rows = {
      {.model = "22B", .hidden = 6144, .layers = 48, .heads = 64, .batch = 4, .micro_batch = 4, .seconds = 1.42, .fitted = true},
      {"22B", 6144, 48, 64, 1, 1, 4, 4, true, 1.10, 9.56, true},
      {"530B", 20480, 105, 128, 35, 3, 280, 1, false, 49.05, 0, true},
      {"530B", 20480, 105, 128, 35, 3, 280, 1, true, 37.83, 23.1, true},
      {"175B", 12288, 96, 96, 8, 3, 64, 1, false, 18.13, 0, false},
      {"175B", 12288, 96, 96, 8, 3, 64, 1, true, 13.75, 0, false},
      {"1T", 25600, 128, 160, 64, 1, 512, 1, false, 94.42, 0, false},
      {"1T", 25600, 128, 160, 64, 1, 512, 1, true, 71.49, 0, false}};
  return rows;
}

inline PlannedJob job_of(const PublishedRow& row) {
  MachineOptions o;
  o.model.architecture = "gpt2";
  o.model.num_hidden_layers = row.layers, o.model.hidden_size = row.hidden, o.model.intermediate_size = 4 * row.hidden;
  o.model.num_attention_heads = o.model.num_key_value_heads = row.heads;
  o.model.vocab_size = 51200, o.model.max_position_embeddings = 2048;
  o.model.attention_dropout = o.model.hidden_dropout = 0.1;
  o.model.tie_word_embeddings = true;
  o.schedule = row.stages_per_rank > 1 ? "interleaved" : "1f1b";
  o.recompute = row.kept ? "selective" : "full";
  o.sequence_parallel = row.kept;
  o.micro_batch_size = row.micro_batch, o.sequence_length = 2048, o.microbatches = row.batch / row.micro_batch;
  o.optimizer_state = {"exp_avg", "exp_avg_sq"};
  o.precision = DType::bf16;
  return {o, {.tensor = 8, .pipeline = row.pipeline, .data = 1}, {}};
}

// A job whose ranks have several stages each, planned from the parts of parallel/: its counts are kept, so that many clusters are
// cheap to ask.
class CountedJob {
 public:
  explicit CountedJob(const PublishedRow& row) : job_(job_of(row)), work_(measure_work(job_.options, job_.degrees)) {
    const int stages = row.pipeline * row.stages_per_rank;
    partition_ = even_partition(static_cast<int>(row.layers), stages);
    ends_.resize(static_cast<std::size_t>(stages));
    for (int p = 0; p < row.pipeline; ++p) add_rank(p);
    schedule_ = build_schedule(job_.options.schedule, layout_);
  }

  double seconds(const Cluster& cluster) const {
    const Setting setting{.degrees = job_.degrees, .head_size = static_cast<double>(job_.options.model.head_size()), .dropout = true};
    double update = 0;
    for (const StageEnd& end : ends_) update = std::max(update, seconds_of(end.update.calls, setting, cluster));
    return simulate(schedule_, layout_, times_of({&work_, &partition_, ends_}, layout_, setting, cluster)).seconds + update;
  }
  double gib(const char* recompute, bool sequence_parallel) const {
    MachineOptions options = job_.options;
    options.recompute = recompute, options.sequence_parallel = sequence_parallel;
    return most_layers(schedule_[0], layout_, partition_) * unfused_layer_bytes(options, job_.degrees.tensor) / 0x1p30;
  }
  const PlannedJob& job() const { return job_; }

 private:
  void add_rank(int pipeline) {
    const Mesh mesh = Mesh::planned(rank_of({.tensor = 0, .pipeline = pipeline, .data = 0}, job_.degrees), job_.degrees);
    Arena nowhere(Backing::none, kUnlimited);
    Holdings held(job_.options, mesh, nowhere);
    const int stages = partition_.stages(), ranks = job_.degrees.pipeline;
    if (pipeline == 0) {
      layout_ = make_layout(held.model, partition_, find_ties(held.model, partition_), {.microbatches = job_.options.microbatches});
      layout_.ranks = ranks;
      if (job_.options.recompute == "full") layout_.recompute.assign(static_cast<std::size_t>(stages), true);
    }
    ends_[static_cast<std::size_t>(pipeline < ranks - 1 ? pipeline : stages - 1)] =
        measure_end(job_.options, job_.degrees, held, job_.optimizer);
  }

  PlannedJob job_;
  ModelWork work_;
  Partition partition_;
  Layout layout_;
  Schedule schedule_;
  std::vector<StageEnd> ends_;
};

}  // namespace offramp::testing
