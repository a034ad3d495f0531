// How a trainer comes to be: data opened and tried, memory planned, checked against the host and taken, parameters initialised,
// logs opened. Whatever can be found wrong is found here, before the first step.
#include <omp.h>

#include <algorithm>

#include "comm/host.h"
#include "data/tokenizer.h"
#include "models/names.h"
#include "parallel/settle.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/trainer.h"

namespace offramp {
namespace {

std::vector<Corpus> corpora_of(const std::vector<CorpusConfig>& configured) {
  std::vector<Corpus> corpora;
  for (const CorpusConfig& c : configured) corpora.push_back({c.path, c.weight});
  return corpora;
}

// Data of other tools may hold several documents between two boundaries of their .idx file; the tokenizer beside the data knows
// the token that ends each.
std::optional<std::int32_t> end_token_of(const std::vector<CorpusConfig>& corpora) {
  const auto tokenizer = tokenizer_beside(corpora.front().path);
  if (!tokenizer) return std::nullopt;
  return load_tokenizer(*tokenizer)->end_token();
}

std::string file_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

// What logs call a validation set: its file's name, or all of its path where two sets end alike.
std::string set_name(const std::vector<CorpusConfig>& sets, std::size_t which) {
  const std::string name = file_name(sets[which].path);
  const auto alike = std::count_if(sets.begin(), sets.end(), [&](const CorpusConfig& c) { return file_name(c.path) == name; });
  return alike > 1 ? sets[which].path : name;
}

// A rare token beyond the model's vocabulary would end the job days into it.
void check_vocabulary(const std::string& data, std::int64_t vocab_size) {
  const auto file = tokenizer_beside(data);
  if (!file) return;
  const std::int64_t tokens = load_tokenizer(*file)->vocab_size();
  if (tokens > vocab_size)
    fail(Exit::data, "{}: a tokenizer of {} tokens, but model.vocab_size is {}: set it to {} or more", *file, tokens, vocab_size, tokens);
}

}  // namespace

Trainer::Trainer(const Config& config, const std::string& resume, const Group& world, Activity& activity, const Preemption& preemption)
    : config_(training_layout(config)), world_(world), activity_(activity), preemption_(preemption) {
  omp_set_num_threads(config.training.threads);
  const Degrees degrees = degrees_of(config_, world.size());
  activity.begin("splitting the world");
  mesh_ = Mesh(world, degrees);
  agreed(world, activity, "opening data", [&] { open_data(); });
  plan_machine();
  const std::string run_id = lock_directories();
  agreed(world, activity, "taking memory", [&] { build_machine(); });
  checkpoints_ = std::make_unique<Checkpoints>(config_, world, *machine_, activity, run_id);
  at_ = checkpoints_->resume(resume);
  if (config.caches_features()) open_features(config, run_id);
  measure_machine();
  agreed(world, activity, "opening logs", [&] {
    if (world_.rank() != 0) return;
    log_ = std::make_unique<JobLog>(config_, degrees);
    if (!config_.export_hf.empty()) try_export(export_options(), config_.model);
  });
}

// Before this run takes memory: ranks of an earlier one that was killed may still have theirs. Returns the run's id.
std::string Trainer::lock_directories() {
  Context ctx;
  ctx.activity = &activity_;
  const std::string run_id = draw_run_id(ctx, world_);
  run_lock_ = lock_run(ctx, world_, {config_.logging.directory, config_.checkpoint.directory}, run_id);
  return run_id;
}

void Trainer::open_data() {
  const TrainingConfig& training = config_.training;
  DatasetOptions options;
  options.corpora = corpora_of(config_.data.train);
  options.loss_mask = config_.data.loss_mask;
  options.sequence_length = training.sequence_length;
  options.vocab_size = config_.model.vocab_size;
  options.seed = training.seed;
  options.shuffle = config_.data.shuffle;
  options.alive = [this] { activity_.beat(); };
  if (config_.data.document_mask) options.end_token = end_token_of(config_.data.train);
  train_.emplace(options);
  if (train_->samples_per_epoch() < training.global_batch_size)
    fail(Exit::data, "{}: {} samples of {} tokens are fewer than one step's {} (global_batch_size): use more data, or a smaller batch",
         config_.data.train.front().path, train_->samples_per_epoch(), training.sequence_length, training.global_batch_size);
  options.loss_mask.clear();
  options.shuffle = false;
  for (std::size_t i = 0; i < config_.data.validation.size(); ++i) {
    options.corpora = {{config_.data.validation[i].path, 1.0}};
    validation_.push_back({set_name(config_.data.validation, i), Dataset(options)});
    try_validation(validation_.back().data);
  }
  data_options_ = options;
  for (const CorpusConfig& corpus : config_.data.train) check_vocabulary(corpus.path, config_.model.vocab_size);
}

// Reads what validation will read: a bad token there must not end a job after its last step.
void Trainer::try_validation(const Dataset& data) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(config_.training.sequence_length) + 1);
  const std::int64_t samples = validated_samples(config_, data);
  for (std::int64_t i = 0; i < samples; ++i) {
    data.read(i, tokens, {});
    activity_.beat();
  }
}

// Every rank has read its file, or found a schedule for its memory, by itself. Other files, or other processors whose kernels borrow
// more, would let ranks take each other's messages for what they are not.
void Trainer::compare_schedules() {
  if (!options_.known_schedule) return;
  Context ctx;
  ctx.activity = &activity_;
  const double mine = static_cast<double>(hash(to_text(*options_.known_schedule)) >> 32);  // sums of it are exact
  double all = mine;
  all_reduce(ctx, Tensor(&all, {1}, DType::f64), world_).wait(ctx);
  agreed(world_, activity_, "comparing schedules", [&] {
    if (all == mine * world_.size()) return;
    fail(Exit::configuration, "parallel.schedule: {} is another schedule on another host; give all hosts the same file and processors",
         options_.schedule);
  });
}

void Trainer::plan_machine() {
  agreed(world_, activity_, "making the schedule", [&] { options_ = settled(machine_options(config_, mesh_.degrees), mesh_.degrees); });
  compare_schedules();
  MemoryPlan plan;
  agreed(world_, activity_, "planning memory", [&] { plan = plan_memory(options_, Mesh::planned(world_.rank(), mesh_.degrees)); });
  planned_bytes_ = plan.peak;
  check_host_memory(world_, activity_, plan.peak + plan.messages);
}

// The backbone may be made for it, beside the machine that trains: it is none the larger for what that has not.
void Trainer::open_features(const Config& config, const std::string& run_id) {
  std::vector<const Dataset*> data{&*train_};
  for (const ValidationSet& set : validation_) data.push_back(&set.data);
  features_ = std::make_unique<JobFeatures>(
      FeatureJob{config, world_, activity_, checkpoints_->base(), run_id, data_options_, machine_->memory().peak}, std::move(data));
  machine_->give_taps(
      [this](const MicrobatchInput& input, int unit, Tensor tap) { features_->give(machine_->context(), input, unit, tap); });
}

void Trainer::build_machine() {
  machine_ = std::make_unique<Machine>(
      options_, mesh_, Backing::host, planned_bytes_, [world = world_] { world.progress(); }, &activity_);
  machine_->flat().initialize(machine_->context(), config_.training.seed,
                              [&](const std::string& name) { return exit_origin(name, config_.model, config_.exits); });
  loader_ = std::make_unique<Loader>(
      *train_, LoaderOptions{config_.training.micro_batch_size, config_.training.sequence_length, mesh_.at.data, mesh_.degrees.data});
  names_ = std::make_unique<LogicalNames>(machine_->model());
}

// What the whole job computes a step, could compute a second, and takes at most on a rank: for the logs.
void Trainer::measure_machine() {
  activity_.begin("measuring the processor");
  std::vector<double> values(1 + static_cast<std::size_t>(world_.size()), 0.0);
  const Peaks peaks{measure_peak_flops(machine_->options().precision), measure_peak_bytes()};
  values[0] = peaks.flops;
  values[1 + static_cast<std::size_t>(world_.rank())] = static_cast<double>(machine_->memory().peak);
  flops_ = machine_->pass_flops();
  for (std::vector<double>* sums : {&values, &flops_}) {
    const Tensor all(sums->data(), {static_cast<std::int64_t>(sums->size())}, DType::f64);
    all_reduce(machine_->context(), all, world_).wait(machine_->context());
  }
  peak_flops_ = values[0];
  peak_bytes_ = *std::max_element(values.begin() + 1, values.end());
  profiler_.emplace(Profiler::Options{config_.logging.profile_steps, config_.logging.directory, peaks}, *machine_);
}

}  // namespace offramp
