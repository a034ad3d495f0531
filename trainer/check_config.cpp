#include "trainer/check_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace offramp {
namespace {

struct Check {
  const Config& config;
  const Locations& at;
  const std::set<std::string>& unknown;
  Problems& problems;

  bool known(std::initializer_list<std::string_view> paths) const {
    return std::none_of(paths.begin(), paths.end(), [&](std::string_view path) { return unknown.count(std::string(path)) != 0; });
  }
  template <class... Args>
  void blame(std::string_view path, fmt::format_string<Args...> text, Args&&... args) {
    problems.push_back({at.where(path), fmt::format("{}: {}", path, fmt::format(text, std::forward<Args>(args)...))});
  }

  void model();
  void exits();
  void exit(std::size_t index);
  void batches();
  void microbatches(std::int64_t data);
  void world(int size);
  void steps();
  void optimizer();
  void schedule();
  void data();
};

void Check::model() {
  const ModelConfig& m = config.model;
  if (known({"model.hidden_size", "model.num_attention_heads"})) {
    if (m.hidden_size % m.num_attention_heads != 0) {
      blame("model.hidden_size", "{} is not divisible by num_attention_heads {}; the nearest multiple is {}", m.hidden_size,
            m.num_attention_heads,
            std::max<std::int64_t>(1, (m.hidden_size + m.num_attention_heads / 2) / m.num_attention_heads) * m.num_attention_heads);
    } else if (m.head_size() % 2 != 0) {
      blame("model.hidden_size", "{} / {} heads is a head size of {}; rotary embeddings need an even one", m.hidden_size,
            m.num_attention_heads, m.head_size());
    }
  }
  if (known({"model.num_attention_heads", "model.num_key_value_heads"}) && m.num_attention_heads % m.num_key_value_heads != 0) {
    blame("model.num_key_value_heads", "{} does not divide num_attention_heads {}", m.num_key_value_heads, m.num_attention_heads);
  }
  if (known({"training.sequence_length", "model.max_position_embeddings"}) && config.training.sequence_length > m.max_position_embeddings) {
    blame("training.sequence_length", "{} is more than model.max_position_embeddings {}", config.training.sequence_length,
          m.max_position_embeddings);
  }
}

void Check::exit(std::size_t index) {
  const ExitSpec& spec = config.exits[index];
  const std::string path = fmt::format("exits.{}", index);
  const auto layers = config.model.num_hidden_layers;
  if (spec.head == HeadKind::bare && spec.shared_norm) blame(path + ".norm", "a bare head has no norm to share; remove this key");
  if (!known({path + ".layer"})) return;
  for (std::size_t other = 0; other < index; ++other) {
    if (config.exits[other].layer != spec.layer || !known({fmt::format("exits.{}.layer", other)})) continue;
    blame(path + ".layer", "layer {} has an exit already (exits.{}); at most one a layer", spec.layer, other);
  }
  if (!known({"model.num_hidden_layers"})) return;
  if (spec.layer > layers) {
    blame(path + ".layer", "{} is beyond the last layer; the nearest is {}", spec.layer, layers);
  } else if (spec.layer == layers && spec.head == HeadKind::norm && spec.shared_output && spec.shared_norm) {
    blame(path + ".layer", "an exit at the last layer that shares the final norm and output is the final head itself; remove it");
  }
}

void Check::exits() {
  for (std::size_t i = 0; i < config.exits.size(); ++i) exit(i);
}

void Check::batches() {
  const TrainingConfig& t = config.training;
  const ParallelConfig& p = config.parallel;
  if (known({"parallel.pipeline_parallel_size", "model.num_hidden_layers"}) && p.pipeline_parallel_size > config.model.num_hidden_layers) {
    blame("parallel.pipeline_parallel_size", "{} stages for {} layers; the nearest is {}", p.pipeline_parallel_size,
          config.model.num_hidden_layers, config.model.num_hidden_layers);
  }
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

void Check::microbatches(std::int64_t data) {
  constexpr std::int64_t kMost = 32767;  // a schedule numbers them in 16 bits
  const TrainingConfig& t = config.training;
  const std::int64_t count = t.global_batch_size / (t.micro_batch_size * data);
  if (count <= kMost) return;
  blame("training.global_batch_size",
        "{} / (micro_batch_size {} x data_parallel_size {}) is {} microbatches a rank and step, at most {} are possible; use a "
        "micro_batch_size of at least {}",
        t.global_batch_size, t.micro_batch_size, data, count, kMost, (t.global_batch_size / data + kMost - 1) / kMost);
}

void Check::world(int size) {
  const ParallelConfig& p = config.parallel;
  if (size % p.pipeline_parallel_size != 0) {
    blame("parallel.pipeline_parallel_size", "{} does not divide the number of ranks, {}; start a multiple of {} ranks",
          p.pipeline_parallel_size, size, p.pipeline_parallel_size);
    return;
  }
  const int data = size / p.pipeline_parallel_size;
  if (p.data_parallel_size != 0 && p.data_parallel_size != data) {
    blame("parallel.data_parallel_size", "{} x pipeline_parallel_size {} needs {} ranks, started with {}; the nearest is {} or auto",
          p.data_parallel_size, p.pipeline_parallel_size, std::int64_t{p.data_parallel_size} * p.pipeline_parallel_size, size, data);
    return;
  }
  const TrainingConfig& t = config.training;
  if (p.data_parallel_size != 0) return;  // see batches()
  microbatches(data);
  if (t.global_batch_size % (t.micro_batch_size * data) == 0) return;
  blame("training.global_batch_size",
        "{} is not divisible by micro_batch_size {} x data_parallel_size {} ({} ranks / pipeline_parallel_size {})", t.global_batch_size,
        t.micro_batch_size, data, size, p.pipeline_parallel_size);
}

void Check::steps() {
  const TrainingConfig& t = config.training;
  // With `steps: 0` a preset is exported or validated as it is: nothing that concerns steps matters.
  if (known({"training.steps", "training.stop_at"}) && t.steps > 0 && t.stop_at > t.steps) {
    blame("training.stop_at", "{} is after the last step; the nearest is {}", t.stop_at, t.steps);
  }
  if (known({"training.validation_interval", "data.validation"}) && t.validation_interval > 0 && config.data.validation.empty()) {
    blame("training.validation_interval", "{} needs a validation set: name data.validation, or set 0", t.validation_interval);
  }
}

void Check::optimizer() {
  const OptimizerConfig& o = config.optimizer;
  if (known({"optimizer.lr", "optimizer.lr_schedule.min_lr"}) && o.lr_schedule.min_lr > o.lr) {
    blame("optimizer.lr_schedule.min_lr", "{} is more than lr {}", o.lr_schedule.min_lr, o.lr);
  }
  if (!known({"optimizer.name", "optimizer.momentum", "optimizer.nesterov"})) return;
  if (o.name == "adamw" && o.momentum != 0) blame("optimizer.momentum", "{} means nothing to adamw: set betas, or name: sgd", o.momentum);
  if (o.name == "adamw" && o.nesterov) blame("optimizer.nesterov", "means nothing to adamw: remove it, or name: sgd");
  if (o.name == "sgd" && o.nesterov && o.momentum == 0) blame("optimizer.nesterov", "needs a momentum above 0, such as 0.9");
}

void Check::schedule() {
  const LrSchedule& s = config.optimizer.lr_schedule;
  const std::string_view decay = "optimizer.lr_schedule.decay_steps", lowest = "optimizer.lr_schedule.min_lr";
  if (!known({"optimizer.lr_schedule.name", decay})) return;
  if ((s.name == "linear" || s.name == "cosine") && s.decay_steps != 0) {
    blame(decay, "{} decays from the warm-up to the last step; decay_steps belongs to wsd, remove it", s.name);
  }
  if (s.name == "constant" && s.decay_steps != 0) {
    blame(decay, "constant never decays; decay_steps belongs to wsd: name that schedule, or remove it");
  }
  if (s.name == "constant" && known({lowest}) && s.min_lr > 0) {
    blame(lowest, "constant never decays; name a schedule that does (linear, cosine, wsd), or remove it");
  }
  if (s.name != "wsd") return;
  if (s.decay_steps == 0) return blame(decay, "wsd needs the number of its last steps that decay, at least 1");
  if (!known({"optimizer.lr_schedule.warmup_steps", "training.steps"})) return;
  const std::int64_t room = config.training.steps - s.warmup_steps;
  if (room > 0 && s.decay_steps > room) {
    blame(decay, "{} is more than the {} steps after the warm-up; the nearest is {}", s.decay_steps, room, room);
  }
}

void Check::data() {
  const DataConfig& d = config.data;
  if (known({"data.train", "data.loss_mask"}) && !d.loss_mask.empty() && d.train.size() > 1) {
    blame("data.loss_mask", "one mask covers one corpus, data.train lists {}", d.train.size());
  }
  if (!known({"data.validation"})) return;
  for (const CorpusConfig& set : d.validation) {
    if (set.weight != 1)
      blame("data.validation", "{} has weight {}, but each set is measured alone; remove the weight", set.path, set.weight);
  }
}

}  // namespace

Place Locations::where(std::string_view path) const {
  while (!path.empty()) {
    if (const auto found = places.find(path); found != places.end()) return found->second;
    const std::size_t dot = path.rfind('.');
    path = path.substr(0, dot == std::string_view::npos ? 0 : dot);
  }
  return root;
}

void check_config(const Config& config, std::optional<int> world_size, const Locations& at, const std::set<std::string>& unknown,
                  Problems& problems) {
  Check check{config, at, unknown, problems};
  check.model();
  check.exits();
  check.batches();
  check.steps();
  check.optimizer();
  check.schedule();
  check.data();
  if (world_size) check.world(*world_size);
}

}  // namespace offramp
