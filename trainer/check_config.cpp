#include "trainer/check_config.h"

#include "trainer/config_checker.h"
#include "trainer/schema.h"

namespace offramp {

// Keys that mean nothing beside the others: an architecture's own, a section that another one replaces.
void ConfigChecker::keys_without_meaning() {
  for (const SchemaKey& key : schema()) {
    const bool judged = at.given(key.path) && known({key.path, key.rule.means.depends_on});
    if (judged && !key.means_something(config)) blame(key.path, "{}", key.rule.means.otherwise);
  }
}

void ConfigChecker::model() {
  const ModelConfig& m = config.model;
  if (known({"model.architecture", "model.hidden_size", "model.num_attention_heads", "model.head_dim"})) head_size();
  if (known({"model.architecture", "model.num_attention_heads", "model.num_key_value_heads"})) heads();
  const std::string_view low = "model.rope_scaling.low_freq_factor", high = "model.rope_scaling.high_freq_factor";
  if (m.rope_scaling.llama3() && known({"model.rope_scaling.rope_type", low, high}) &&
      m.rope_scaling.high_freq_factor <= m.rope_scaling.low_freq_factor) {
    blame(high, "{} is not more than low_freq_factor {}", m.rope_scaling.high_freq_factor, m.rope_scaling.low_freq_factor);
  }
  if (known({"training.sequence_length", "model.max_position_embeddings"}) && config.training.sequence_length > m.max_position_embeddings) {
    blame("training.sequence_length", "{} is more than model.max_position_embeddings {}", config.training.sequence_length,
          m.max_position_embeddings);
  }
}

void ConfigChecker::head_size() {
  constexpr std::int64_t kMost = 2147483647;  // of all heads together: a width
  const ModelConfig& m = config.model;
  if (m.head_dim > 0 && !m.gpt2()) {
    if (m.head_dim % 2 != 0) blame("model.head_dim", "{} is odd; rotary embeddings need an even size", m.head_dim);
    if (m.head_dim > kMost / m.num_attention_heads)
      blame("model.head_dim", "{} heads of {} are wider than {}", m.num_attention_heads, m.head_dim, kMost);
  } else if (m.hidden_size % m.num_attention_heads != 0) {
    blame("model.hidden_size", "{} is not divisible by num_attention_heads {}; the nearest multiple is {}", m.hidden_size,
          m.num_attention_heads,
          std::max<std::int64_t>(1, (m.hidden_size + m.num_attention_heads / 2) / m.num_attention_heads) * m.num_attention_heads);
  } else if (!m.gpt2() && m.head_size() % 2 != 0) {
    blame("model.hidden_size", "{} / {} heads is a head size of {}; rotary embeddings need an even one", m.hidden_size,
          m.num_attention_heads, m.head_size());
  }
}

void ConfigChecker::heads() {
  const ModelConfig& m = config.model;
  const std::string_view path = "model.num_key_value_heads";
  if (m.gpt2() && m.num_key_value_heads != m.num_attention_heads) {
    blame(path, "gpt2 has no grouped queries, its {} heads have keys and values of their own; remove this key", m.num_attention_heads);
  } else if (m.num_attention_heads % m.num_key_value_heads != 0) {
    blame(path, "{} does not divide num_attention_heads {}", m.num_key_value_heads, m.num_attention_heads);
  }
}

void ConfigChecker::exit(std::size_t index) {
  const ExitSpec& spec = config.exits[index];
  const std::string path = fmt::format("exits.{}", index);
  const auto layers = config.model.num_hidden_layers;
  if (spec.head == HeadKind::bare && spec.shared_norm) blame(path + ".norm", "a bare head has no norm to share; remove this key");
  if (spec.init == ExitInit::base && config.model_from.empty() && known({"model.from"}))
    blame(path + ".init", "there is no base: name model.from, or another way to begin");
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

void ConfigChecker::exits() {
  for (std::size_t i = 0; i < config.exits.size(); ++i) exit(i);
}

// Who learns from the final head needs one that stands still, and its scores of whole rows.
void ConfigChecker::targets() {
  for (std::size_t i = 0; i < config.exits.size(); ++i) {
    const std::string path = fmt::format("exits.{}.target", i);
    if (config.exits[i].target == Target::labels || !known({path, "training.freeze", "parallel.shard_heads_over_pipeline"})) continue;
    if (!config.frozen_backbone()) {
      blame(path, "the final head that it would learn from is learning itself; add training.freeze: backbone, or name labels");
    } else if (config.parallel.shard_heads_over_pipeline) {
      blame(path, "heads that are split over the pipeline learn labels alone; set parallel.shard_heads_over_pipeline: false");
    }
  }
}

// What contradicts a frozen backbone. Schedules, and what belongs to them, mean nothing to it, and are left alone.
void ConfigChecker::freeze() {
  const std::string_view path = "training.freeze";
  if (!config.frozen_backbone() || !known({path})) return;
  if (config.exits.empty() && known({"exits"})) blame(path, "only exits would learn, and there is none: add `exits`, or set none");
  if (config.layerskip.enabled && known({"layerskip"}))
    blame("layerskip", "leaves layers out so that the backbone learns to do without them, but training.freeze: backbone keeps it as it is");
  if (config.parallel.fill_bubbles != "none" && known({"parallel.fill_bubbles"}))
    blame("parallel.fill_bubbles", "a frozen backbone has no backward, and so no gaps to fill; remove this key");
  for (std::size_t i = 0; i < config.exits.size(); ++i) {
    const ExitSpec& exit = config.exits[i];
    const bool body = exit.head != HeadKind::bare && exit.head != HeadKind::norm;
    const std::string of_exit = fmt::format("exits.{}", i);
    if (body || !exit.shared_output || !(exit.shared_norm || exit.head == HeadKind::bare)) continue;
    if (known({of_exit + ".head", of_exit + ".output", of_exit + ".norm"}))
      blame(of_exit, "nothing of it would learn: its norm and output are the frozen final head's; give it one of its own");
  }
}

void ConfigChecker::layerskip() {
  if (config.layerskip.enabled && config.exits.empty() && known({"layerskip", "exits"})) {
    blame("layerskip", "weights the losses of exits, and there is none: add `exits`, or remove this section");
  }
}

void ConfigChecker::steps() {
  const TrainingConfig& t = config.training;
  // With `steps: 0` a preset is exported or validated as it is: nothing that concerns steps matters.
  if (known({"training.steps", "training.stop_at"}) && t.steps > 0 && t.stop_at > t.steps) {
    blame("training.stop_at", "{} is after the last step; the nearest is {}", t.stop_at, t.steps);
  }
  if (known({"training.validation_interval", "data.validation"}) && t.validation_interval > 0 && config.data.validation.empty()) {
    blame("training.validation_interval", "{} needs a validation set: name data.validation, or set 0", t.validation_interval);
  }
}

void ConfigChecker::optimizer() {
  const OptimizerConfig& o = config.optimizer;
  if (known({"optimizer.lr", "optimizer.lr_schedule.min_lr"}) && o.lr_schedule.min_lr > o.lr) {
    blame("optimizer.lr_schedule.min_lr", "{} is more than lr {}", o.lr_schedule.min_lr, o.lr);
  }
  if (!known({"optimizer.name", "optimizer.momentum", "optimizer.nesterov"})) return;
  if (o.name == "adamw" && o.momentum != 0) blame("optimizer.momentum", "{} means nothing to adamw: set betas, or name: sgd", o.momentum);
  if (o.name == "adamw" && o.nesterov) blame("optimizer.nesterov", "means nothing to adamw: remove it, or name: sgd");
  if (o.name == "sgd" && o.nesterov && o.momentum == 0) blame("optimizer.nesterov", "needs a momentum above 0, such as 0.9");
}

void ConfigChecker::schedule() {
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

void ConfigChecker::data() {
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

void ConfigChecker::logging() {
  const auto [first, last] = config.logging.profile_steps;
  const std::string_view path = "logging.profile_steps";
  if (first == 0 || !known({path})) return;
  if (first > last) blame(path, "the first step, {}, is after the last, {}", first, last);
  if (known({"training.steps"}) && config.training.steps > 0 && first > config.training.steps) {
    blame(path, "the first step, {}, is after the last of the run; the nearest is {}", first, config.training.steps);
  }
  if (known({"logging.directory"}) && config.logging.directory.empty()) blame(path, "needs logging.directory, where the files go");
}

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
  ConfigChecker check{config, at, unknown, problems};
  check.keys_without_meaning();
  check.model();
  check.exits();
  check.layerskip();
  check.targets();
  check.freeze();
  check.supernet();
  check.stages();
  check.virtual_stages();
  check.tensor_ranks();
  check.split_heads();
  check.sequence_parallel();
  check.batches();
  check.fill_bubbles();
  check.steps();
  check.optimizer();
  check.schedule();
  check.data();
  check.logging();
  if (world_size) check.world(*world_size);
}

void check_model(const Config& config, Problems& problems) {
  const ModelConfig& m = config.model;
  const Locations nowhere;
  const std::set<std::string> unknown;
  if (m.num_key_value_heads == 0 || m.max_position_embeddings == 0)
    return problems.push_back({Place{}, "defaults of the model's keys are missing"});
  ConfigChecker check{config, nowhere, unknown, problems};
  check.model();
  check.exits();
}

}  // namespace offramp
