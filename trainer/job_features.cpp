#include "trainer/job_features.h"

#include <algorithm>

#include "checkpoint/state.h"
#include "data/progress.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/fingerprint.h"
#include "trainer/job.h"
#include "trainer/loader.h"
#include "trainer/resume.h"
#include "trainer/run_lock.h"

namespace offramp {
namespace {

// What leaves the outputs of a frozen backbone as they are.
bool means_nothing(std::string_view key) { return key == "model.from" || key.ends_with("_dropout"); }

std::map<std::string, std::string> features_are_of(const Config& config, const FrozenBase& base, std::optional<std::int32_t> end_token) {
  std::map<std::string, std::string> of;
  for (const auto& [key, value] : remembered(config))
    if (key.starts_with("model.") && !means_nothing(key)) of[key] = value;
  of["backbone"] = base.empty() ? fmt::format("as initialised with training.seed {}", config.training.seed) : base.at("identity");
  of["training.precision"] = config.training.precision;
  of["training.sequence_length"] = std::to_string(config.training.sequence_length);
  of["data.document_mask"] = config.data.document_mask ? "true" : "false";
  of["tuning.feature_dtype"] = config.tuning.feature_dtype;
  if (end_token) of[kEndToken] = std::to_string(*end_token);
  return of;
}

// Whether rank 0 sees features there, for all: a network's directory may look different elsewhere.
bool agreed_there(const Group& world, Activity& activity, const std::string& directory) {
  Context ctx;
  ctx.activity = &activity;
  double there = world.rank() == 0 && FeatureCache::is_there(directory) ? 1 : 0;
  broadcast(ctx, Tensor(&there, {1}, DType::f64), world, 0).wait(ctx);
  return there > 0;
}

}  // namespace

std::int64_t validated_samples(const Config& config, const Dataset& data) {
  return std::min(config.training.validation_samples, data.samples_per_epoch());
}

JobFeatures::JobFeatures(const FeatureJob& job, std::vector<const Dataset*> data) : data_(std::move(data)) {
  const std::string& directory = job.config.tuning.feature_cache;
  agreed(job.world, job.activity, "looking for features", [&] {
    wanted_.of = features_are_of(job.config, job.base, job.data.end_token);
    want(job.config);
  });
  note_ = "training from the features in " + directory;
  if (!agreed_there(job.world, job.activity, directory)) make(job);
  agreed(job.world, job.activity, "opening features", [&] { cache_ = std::make_unique<FeatureCache>(directory, wanted_); });
}

void JobFeatures::want(const Config& config) {
  wanted_.sequence_length = config.training.sequence_length, wanted_.hidden_size = config.model.hidden_size;
  wanted_.type = config.tuning.feature_dtype == "bf16" ? DType::bf16 : DType::f32;
  const Model model = build_model(config.model, config.exits, {.frozen_backbone = true});
  for (const Head& head : model.heads) wanted_.taps.push_back(head.tap());
  if (model.final) wanted_.taps.push_back(kFinalTap);
  sets_.emplace_back();
  for (std::size_t c = 0; c < config.data.train.size(); ++c) want_set(config.data.train[c], data_[0]->samples_of(c));
  for (std::size_t i = 0; i < config.data.validation.size(); ++i) {
    sets_.emplace_back();
    want_set(config.data.validation[i], validated_samples(config, *data_[1 + i]));
  }
}

// The same files may be named twice.
void JobFeatures::want_set(const CorpusConfig& corpus, std::int64_t samples) {
  const std::string identity = fmt::format("{}, {}", fingerprint(corpus.path + ".idx"), fingerprint(corpus.path + ".bin"));
  auto it = std::ranges::find(wanted_.sets, identity, &FeatureSet::identity);
  if (it == wanted_.sets.end()) it = wanted_.sets.insert(it, {corpus.path, identity, 0});
  it->samples = std::max(it->samples, samples);
  sets_.back().push_back(static_cast<std::size_t>(it - wanted_.sets.begin()));
}

void JobFeatures::make(const FeatureJob& job) {
  const std::string& directory = job.config.tuning.feature_cache;
  Context ctx;
  ctx.activity = &job.activity;
  const auto lock = lock_run(ctx, job.world, {directory}, job.run_id);
  if (agreed_there(job.world, job.activity, directory)) return;  // another job has made them meanwhile
  const Degrees degrees = degrees_of(job.config, job.world.size());
  const MachineOptions options = feature_options(job.config, degrees);
  const MemoryPlan plan = plan_memory(options, Mesh::planned(job.world.rank(), degrees));
  check_host_memory(job.world, job.activity, job.beside + plan.peak + plan.messages);
  agreed(job.world, job.activity, "preparing the files of features", [&] {
    if (job.world.rank() == 0) FeatureWriter::prepare(directory, wanted_);
  });
  job.activity.begin("splitting the world");
  Machine machine(
      options, Mesh(job.world, degrees), Backing::host, plan.peak, [world = job.world] { world.progress(); }, &job.activity);
  std::unique_ptr<FeatureWriter> writer;
  agreed(job.world, job.activity, "loading the backbone", [&] {
    machine.flat().initialize(machine.context(), job.config.training.seed);
    if (!job.base.empty()) {
      const auto weights = backbone_of(job.base, job.config.model, job.config.training.seed);
      load_frozen(machine, *weights, job.base.at("directory"));
    }
    writer = std::make_unique<FeatureWriter>(directory, wanted_);
  });
  for (std::size_t set = 0; set < wanted_.sets.size(); ++set) make_set(job, set, machine, *writer);
  agreed(job.world, job.activity, "writing features", [&] { writer->finish(); });
  agreed(job.world, job.activity, "publishing features", [&] {
    if (lock) lock->check();
    if (job.world.rank() == 0) FeatureWriter::publish(directory, wanted_);
  });
  note_ += fmt::format(", which the backbone has made: {:.3g} GB", static_cast<double>(wanted_.bytes()) / 1e9);
}

// Each data rank its samples, of each the rank on whose stage the tap is.
void JobFeatures::make_set(const FeatureJob& job, std::size_t set, Machine& machine, FeatureWriter& writer) const {
  const std::int64_t samples = wanted_.sets[set].samples, s = wanted_.sequence_length, b = machine.options().micro_batch_size;
  const Coordinates& at = machine.mesh().at;
  DatasetOptions options = job.data;
  options.corpora = {{wanted_.sets[set].path, 1.0}};
  const Dataset data(options);
  Loader loader(data, {b, s, at.data, machine.mesh().degrees.data});
  const std::int64_t wave = b * machine.mesh().degrees.data, most = machine.options().microbatches;
  const auto write = [&](const MicrobatchInput& input, int unit, Tensor tap) {
    if (at.tensor != 0) return;
    for (std::int64_t i = 0; i < b && input.first_sample + i < samples; ++i)
      writer.write(machine.context(), {set, tap_of(unit), input.first_sample + i}, tap.narrow(0, i * s, s));
  };
  std::optional<Progress> progress;
  if (job.world.rank() == 0) progress.emplace("features of " + wanted_.sets[set].path, samples);
  for (std::int64_t first = 0; first < samples;) {
    const std::int64_t waves = std::min(most, (samples - first + wave - 1) / wave);
    job.activity.begin(fmt::format("features of {}, data", wanted_.sets[set].path));
    loader.fill(first, samples, machine.inputs().first(static_cast<std::size_t>(waves)));
    machine.read_taps(static_cast<int>(waves), fmt::format("features of {}, sample {}", wanted_.sets[set].path, first), write);
    first += waves * wave;
    loader.prefetch(first, static_cast<std::size_t>(waves));
    if (progress) progress->advance(waves * wave);
  }
}

std::size_t JobFeatures::tap_of(int unit) const {
  return static_cast<std::size_t>(std::ranges::find(wanted_.taps, unit) - wanted_.taps.begin());
}

FeaturePlace JobFeatures::place_of(std::int64_t sample, std::size_t tap) const {
  const Dataset::Sample at = data_[served_.dataset]->sample(sample);
  return {sets_[served_.dataset][at.corpus], tap, at.index};
}

void JobFeatures::give(Context& ctx, const MicrobatchInput& input, int unit, Tensor tap) const {
  const std::int64_t s = wanted_.sequence_length;
  for (std::int64_t i = 0; i * s < tap.shape[0]; ++i) {
    const Tensor rows = tap.narrow(0, i * s, s);
    if (input.first_sample + i < served_.end)
      cache_->read(ctx, place_of(input.first_sample + i, tap_of(unit)), rows);
    else
      fill_zero(ctx, rows);
  }
}

void JobFeatures::prefetch(std::int64_t sample) const {
  for (std::size_t tap = 0; tap < wanted_.taps.size(); ++tap) cache_->prefetch(place_of(sample, tap));
}

}  // namespace offramp
