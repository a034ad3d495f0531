// How ranks share the work: what each degree of parallelism must divide.
#include <numeric>

#include "parallel/fill.h"
#include "parallel/partition.h"
#include "trainer/config_checker.h"

namespace offramp {
namespace {

// The degrees that divide what must be divisible, smallest first.
std::vector<std::int64_t> tensor_degrees(const ModelConfig& model) {
  const std::int64_t common = std::gcd(model.num_key_value_heads, model.intermediate_size);
  std::set<std::int64_t> divisors;
  for (std::int64_t d = 1; d * d <= common; ++d) {
    if (common % d == 0) divisors.insert({d, common / d});
  }
  return {divisors.begin(), divisors.upper_bound(model.vocab_size)};
}

}  // namespace

void ConfigChecker::stages() {
  const ParallelConfig& p = config.parallel;
  if (!known({"parallel.pipeline_parallel_size", "parallel.virtual_stages", "model.num_hidden_layers", "training.freeze", "exits"})) return;
  const bool frozen = config.frozen_backbone();
  const std::int64_t layers = config.layers();
  if (p.pipeline_parallel_size > layers) {
    blame("parallel.pipeline_parallel_size", "{} stages for {} layers{}; the nearest is {}", p.pipeline_parallel_size, layers,
          frozen ? " up to the last exit" : "", layers);
  } else if (p.stages() > layers && !frozen) {
    blame("parallel.virtual_stages", "{} x pipeline_parallel_size {} are {} stages for {} layers; the nearest is {}", p.virtual_stages,
          p.pipeline_parallel_size, p.stages(), layers, layers / p.pipeline_parallel_size);
  }
  if (p.partition.layers.empty() || !known({"parallel.partition"})) return;
  const std::string wrong =
      refuse_layers(p.partition.layers, layers, frozen ? p.pipeline_parallel_size : static_cast<int>(p.stages()), frozen);
  if (!wrong.empty()) blame("parallel.partition", "{}", wrong);
}

void ConfigChecker::virtual_stages() {
  const ParallelConfig& p = config.parallel;
  if (!known({"parallel.virtual_stages", "parallel.schedule", "parallel.pipeline_parallel_size"}) || config.frozen_backbone()) return;
  const bool one_a_rank = p.schedule == "1f1b" || p.schedule == "zero_bubble";
  if (p.schedule == "interleaved" && p.virtual_stages == 1)
    return blame("parallel.schedule", "interleaved runs several stages on each pipeline rank; set virtual_stages: 2 or more, or name 1f1b");
  if (p.virtual_stages == 1) return;
  if (p.pipeline_parallel_size == 1)
    return blame("parallel.virtual_stages",
                 "{} stages on the only pipeline rank have nothing to overlap; use pipeline_parallel_size 2 or "
                 "more, or set 1",
                 p.virtual_stages);
  if (one_a_rank)
    blame("parallel.virtual_stages", "schedule {} runs one stage on each pipeline rank, not {}; name interleaved, gpipe or auto, or set 1",
          p.schedule, p.virtual_stages);
}

// Key and value heads, the MLP's width and the vocabulary are what tensor-parallel ranks divide. (Their parts of a vocabulary may
// be uneven; the others' may not.)
void ConfigChecker::tensor_ranks() {
  const ModelConfig& m = config.model;
  const std::int64_t degree = config.parallel.tensor_parallel_size;
  const std::string_view path = "parallel.tensor_parallel_size";
  if (!known({path, "model.num_key_value_heads", "model.intermediate_size", "model.vocab_size"})) return;
  std::vector<std::string> against;
  if (m.num_key_value_heads % degree != 0) against.push_back(fmt::format("does not divide num_key_value_heads {}", m.num_key_value_heads));
  if (m.intermediate_size % degree != 0) against.push_back(fmt::format("does not divide intermediate_size {}", m.intermediate_size));
  if (m.vocab_size < degree) against.push_back(fmt::format("is more than vocab_size {}", m.vocab_size));
  if (against.empty()) return;
  blame(path, "{} {}; degrees that work: {}", degree, fmt::join(against, " and "), fmt::join(tensor_degrees(m), ", "));
}

void ConfigChecker::split_heads() {
  const ParallelConfig& p = config.parallel;
  if (!p.shard_heads_over_pipeline) return;
  if (!known({"parallel.tensor_parallel_size", "parallel.pipeline_parallel_size", "model.vocab_size"})) return;
  const std::int64_t vocabulary = config.model.vocab_size;
  if (vocabulary < p.tensor_parallel_size) return;  // see tensor_ranks()
  std::int64_t words = vocabulary;
  for (int t = 0; t < p.tensor_parallel_size; ++t) words = std::min(words, vocabulary_range(vocabulary, t, p.tensor_parallel_size).count);
  if (words >= p.pipeline_parallel_size) return;
  blame("parallel.shard_heads_over_pipeline",
        "vocab_size {} leaves a tensor-parallel rank {} words, fewer than pipeline_parallel_size {} parts; use fewer ranks, or set false",
        vocabulary, words, p.pipeline_parallel_size);
}

void ConfigChecker::sequence_parallel() {
  const ParallelConfig& p = config.parallel;
  const TrainingConfig& t = config.training;
  if (!p.sequence_parallel || !known({"parallel.tensor_parallel_size", "training.micro_batch_size", "training.sequence_length"})) return;
  const std::int64_t tokens = t.micro_batch_size * t.sequence_length;
  if (tokens % p.tensor_parallel_size == 0) return;
  blame("parallel.sequence_parallel",
        "the {} tokens of a microbatch (micro_batch_size {} x sequence_length {}) are not divisible by tensor_parallel_size {}; change one "
        "of them, or set false",
        tokens, t.micro_batch_size, t.sequence_length, p.tensor_parallel_size);
}

void ConfigChecker::batches() {
  const TrainingConfig& t = config.training;
  const ParallelConfig& p = config.parallel;
  if (known({"training.micro_batch_size", "training.sequence_length"}) && t.micro_batch_size * t.sequence_length > 2147483647) {
    blame("training.micro_batch_size", "{} samples of {} tokens are more than 2147483647 tokens at once", t.micro_batch_size,
          t.sequence_length);
  }
  if (!known({"training.global_batch_size", "training.micro_batch_size", "parallel.data_parallel_size"})) return;
  const std::int64_t data = std::max(p.data_parallel_size, 1);
  const std::int64_t unit = t.micro_batch_size * data;
  if (p.data_parallel_size != 0) microbatches(data);  // auto: see world()
  if (t.global_batch_size % unit == 0) return;
  const std::int64_t close = std::max<std::int64_t>(1, (t.global_batch_size + unit / 2) / unit) * unit;
  blame("training.global_batch_size", "{} is not divisible by micro_batch_size {} x data_parallel_size {}; the nearest is {}",
        t.global_batch_size, t.micro_batch_size, data, close);
}

void ConfigChecker::microbatches(std::int64_t data) {
  constexpr std::int64_t kMost = 32767;  // a schedule numbers them in 16 bits
  const TrainingConfig& t = config.training;
  const std::int64_t count = t.global_batch_size / (t.micro_batch_size * data);
  const ParallelConfig& p = config.parallel;
  if (p.schedule == "interleaved" && !config.frozen_backbone() && known({"parallel.pipeline_parallel_size"}) &&
      count % p.pipeline_parallel_size != 0)
    blame("parallel.schedule",
          "interleaved runs microbatches in groups of pipeline_parallel_size {}, which does not divide the {} a rank "
          "and step; change global_batch_size, or name gpipe or auto",
          p.pipeline_parallel_size, count);
  if (count <= kMost) return;
  blame("training.global_batch_size",
        "{} / (micro_batch_size {} x data_parallel_size {}) is {} microbatches a rank and step, at most {} are possible; use a "
        "micro_batch_size of at least {}",
        t.global_batch_size, t.micro_batch_size, data, count, kMost, (t.global_batch_size / data + kMost - 1) / kMost);
}

// Why the gaps of a schedule that is not 1F1B have no room for partial microbatches.
std::string_view no_gaps(std::string_view schedule) {
  if (schedule == "gpipe") return "gpipe's forwards all come before its backwards, where no gap is long enough";
  if (schedule == "zero_bubble") return "zero_bubble has weight gradients in its gaps";
  if (schedule == "auto") return "auto moves passes until no gap is left that is known beforehand";
  if (schedule == "interleaved") return "interleaved has other stages' work in its gaps";
  return "a schedule file says by itself what runs";
}

void ConfigChecker::fill_bubbles() {
  const ParallelConfig& p = config.parallel;
  const std::string_view path = "parallel.fill_bubbles", stages = "parallel.pipeline_parallel_size";
  if (p.fill_bubbles == "none" || config.frozen_backbone() || !known({path, "parallel.schedule", "parallel.recompute", stages})) return;
  if (p.schedule != "1f1b") return blame(path, "{}; use schedule: 1f1b, or none here", no_gaps(p.schedule));
  if (p.shard_heads_over_pipeline && known({"parallel.shard_heads_over_pipeline"}))
    return blame(path,
                 "heads that are split over the pipeline keep every stage busy with any microbatch; set shard_heads_over_pipeline: false");
  if (p.fill_bubbles == "warmup" && config.exits.empty() && known({"exits"}))
    return blame(path, "in the warm-up only exits learn, and there is none: add `exits`, or take cooldown");
  if (gap_microbatches(p.pipeline_parallel_size, kBackwardOverForward + (p.recompute == "full" ? 1 : 0)) < 1)
    return blame(path, "the gaps of {} {} are too short for a microbatch; 3 is the fewest", p.pipeline_parallel_size,
                 p.pipeline_parallel_size == 1 ? "stage" : "stages");
  if (known({"training.global_batch_size", "training.micro_batch_size", "parallel.data_parallel_size"}))
    fills(std::max(p.data_parallel_size, 1));
}

// With fewer microbatches than stages 1F1B has other gaps.
void ConfigChecker::fills(std::int64_t data) {
  const ParallelConfig& p = config.parallel;
  const std::int64_t count = config.training.global_batch_size / (config.training.micro_batch_size * data);
  if (p.fill_bubbles == "none" || p.schedule != "1f1b" || count >= p.pipeline_parallel_size) return;
  blame("parallel.fill_bubbles",
        "needs a microbatch for each of the {} stages, but a step has {} a replica; use a larger global_batch_size",
        p.pipeline_parallel_size, count);
}

// Training from features has no other ranks.
void ConfigChecker::replicas_of_features(int size) {
  const TrainingConfig& t = config.training;
  const std::int64_t unit = t.micro_batch_size * size;
  if (config.parallel.ranks_per_replica() == 1 || t.global_batch_size % unit == 0) return;  // of as many replicas: see world()
  if (!known({"training.global_batch_size", "training.micro_batch_size"})) return;
  blame("training.global_batch_size",
        "{} is not divisible by micro_batch_size {} x {} ranks, which all are replicas when they train from tuning.feature_cache; the "
        "nearest "
        "is {}",
        t.global_batch_size, t.micro_batch_size, size, std::max<std::int64_t>(1, (t.global_batch_size + unit / 2) / unit) * unit);
}

void ConfigChecker::world(int size) {
  const ParallelConfig& p = config.parallel;
  const std::int64_t replica = p.ranks_per_replica();
  const std::string product =
      fmt::format("tensor_parallel_size {} x pipeline_parallel_size {}", p.tensor_parallel_size, p.pipeline_parallel_size);
  if (size % replica != 0) {
    blame(p.pipeline_parallel_size > 1 ? "parallel.pipeline_parallel_size" : "parallel.tensor_parallel_size",
          "{} does not divide the number of ranks, {}; start a multiple of {} ranks", product, size, replica);
    return;
  }
  const std::int64_t data = size / replica;
  if (p.data_parallel_size != 0 && p.data_parallel_size != data) {
    blame("parallel.data_parallel_size", "{} x {} needs {} ranks, started with {}; the nearest is {} or auto", p.data_parallel_size,
          product, p.data_parallel_size * replica, size, data);
    return;
  }
  if (config.caches_features() && known({"tuning.feature_cache"})) replicas_of_features(size);
  const TrainingConfig& t = config.training;
  if (p.data_parallel_size != 0) return;  // see batches()
  microbatches(data);
  if (data > 1) fills(data);
  if (t.global_batch_size % (t.micro_batch_size * data) == 0) return;
  blame("training.global_batch_size", "{} is not divisible by micro_batch_size {} x data_parallel_size {} ({} ranks / ({}))",
        t.global_batch_size, t.micro_batch_size, data, size, product);
}

}  // namespace offramp
