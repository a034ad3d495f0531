#include "trainer/trainer.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>

#include "comm/host.h"
#include "data/tokenizer.h"
#include "tensor/check.h"

namespace offramp {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Runs one phase on every rank; if it fails on any of them, all throw the same error.
template <class F>
void agreed(const Group& world, Activity& activity, const char* phase, F&& body) {
  activity.begin(phase);
  Context ctx;
  ctx.activity = &activity;
  std::optional<Error> error;
  try {
    body();
  } catch (const AgreedError&) {
    throw;
  } catch (const Error& e) {
    error = e;
  }
  agree(ctx, world, error);
}

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

// The bytes that ranks on this rank's host want in all.
double wanted_on_host(Context& ctx, const Group& world, std::size_t mine) {
  constexpr std::uint64_t kExact = std::uint64_t{1} << 52;  // of a host's name, as much as a double holds
  const auto size = static_cast<std::size_t>(world.size()), rank = static_cast<std::size_t>(world.rank());
  std::vector<double> all(2 * size, 0.0);  // bytes of each rank | its host
  all[rank] = static_cast<double>(mine);
  all[size + rank] = static_cast<double>(hash(host_name()) % kExact);
  all_reduce(ctx, Tensor(all.data(), {static_cast<std::int64_t>(all.size())}, DType::f64), world).wait(ctx);
  double bytes = 0;
  for (std::size_t r = 0; r < size; ++r)
    if (all[size + r] == all[size + rank]) bytes += all[r];
  return bytes;
}

}  // namespace

Trainer::Trainer(const Config& config, const Group& world, Activity& activity) : config_(config), world_(world), activity_(activity) {
  omp_set_num_threads(config.training.threads);
  const Degrees degrees = degrees_of(config, world.size());
  activity.begin("splitting the world");
  mesh_ = Mesh(world, degrees);
  agreed(world, activity, "opening data", [&] { open_data(); });
  plan_machine();
  agreed(world, activity, "taking memory", [&] { build_machine(); });
  measure_machine();
  agreed(world, activity, "opening logs", [&] {
    if (world_.rank() != 0) return;
    log_ = std::make_unique<JobLog>(config_, degrees);
    if (!config_.export_hf.empty()) try_export(export_options(), config_.model);
  });
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
  for (const CorpusConfig& corpus : config_.data.train) check_vocabulary(corpus.path, config_.model.vocab_size);
}

// Reads what validation will read: a bad token there must not end a job after its last step.
void Trainer::try_validation(const Dataset& data) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(config_.training.sequence_length) + 1);
  const std::int64_t samples = std::min(config_.training.validation_samples, data.samples_per_epoch());
  for (std::int64_t i = 0; i < samples; ++i) {
    data.read(i, tokens, {});
    activity_.beat();
  }
}

void Trainer::plan_machine() {
  Context ctx;
  ctx.activity = &activity_;
  planned_bytes_ = 0;
  agreed(world_, activity_, "planning memory", [&] {
    planned_bytes_ = plan_memory(machine_options(config_, mesh_.degrees), Mesh::planned(world_.rank(), mesh_.degrees)).peak;
  });
  const double here = wanted_on_host(ctx, world_, planned_bytes_);
  agreed(world_, activity_, "checking the host's memory", [&] {
    if (here <= static_cast<double>(host_memory())) return;
    fail(Exit::memory,
         "this rank needs {:.2f} GB, all ranks on its host need {:.2f} GB, and the host has {:.2f} GB: reduce the model, micro_batch_size or "
         "sequence_length, use more pipeline stages, or fewer ranks a host",
         static_cast<double>(planned_bytes_) / 1e9, here / 1e9, static_cast<double>(host_memory()) / 1e9);
  });
}

void Trainer::build_machine() {
  machine_ = std::make_unique<Machine>(machine_options(config_, mesh_.degrees), mesh_, Backing::host, planned_bytes_,
                                       [world = world_] { world.progress(); }, &activity_);
  for (Parameter* parameter : machine_->flat().holders()) {
    initialize(*parameter, config_.training.seed);
    activity_.beat();
  }
  loader_ = std::make_unique<Loader>(
      *train_, LoaderOptions{config_.training.micro_batch_size, config_.training.sequence_length, mesh_.at.data, mesh_.degrees.data});
  names_ = std::make_unique<LogicalNames>(machine_->model());
}

// What the whole job computes a step, could compute a second, and takes at most on a rank: for the logs.
void Trainer::measure_machine() {
  activity_.begin("measuring the processor");
  std::vector<double> values(2 + static_cast<std::size_t>(world_.size()), 0.0);
  values[0] = machine_->flops() * static_cast<double>(config_.microbatches(mesh_.degrees.data));
  values[1] = measure_peak_flops();
  values[2 + static_cast<std::size_t>(world_.rank())] = static_cast<double>(machine_->memory().peak);
  const Tensor all(values.data(), {static_cast<std::int64_t>(values.size())}, DType::f64);
  all_reduce(machine_->context(), all, world_).wait(machine_->context());
  flops_per_step_ = values[0];
  peak_flops_ = values[1];
  peak_bytes_ = *std::max_element(values.begin() + 2, values.end());
}

void Trainer::run() {
  try {
    if (log_) log_->begin();
    const std::int64_t last = config_.last_step();
    for (std::int64_t t = 1; t <= last; ++t) {
      step(t);
      const std::int64_t interval = config_.training.validation_interval;
      if (t == last || (interval > 0 && t % interval == 0)) validate(t);
    }
    if (last == 0) validate(0);
    if (!config_.export_hf.empty()) export_model();
    if (log_) log_->finish();
  } catch (const AgreedError&) {
    throw;
  } catch (const Error& e) {
    throw Error(e.code, fmt::format("{}: {}", activity_.text(), e.what()));
  }
}

void Trainer::step(std::int64_t t) {
  const double begin = now();
  fill_zero(machine_->context(), machine_->statistics());
  set_exit_scales(t, static_cast<double>(load(t)));
  machine_->train(fmt::format("step {}", t), times_);
  const Outcome outcome = reduce(t);
  if (finite(t, outcome)) update(t, outcome);
  log_step(t, outcome, now() - begin);
}

// The counted tokens of the whole batch.
std::int64_t Trainer::load(std::int64_t t) {
  activity_.begin(fmt::format("step {}, data", t));
  const double begin = now();
  const std::int64_t batch = config_.training.global_batch_size;
  std::int64_t counted = loader_->fill((t - 1) * batch, std::numeric_limits<std::int64_t>::max(), machine_->inputs());
  if (mesh_.degrees.data > 1 && train_->has_loss_mask()) {
    double sum = static_cast<double>(counted);
    all_reduce(machine_->context(), Tensor(&sum, {1}, DType::f64), mesh_.data).wait(machine_->context());
    counted = static_cast<std::int64_t>(sum);
  } else if (!train_->has_loss_mask()) {
    counted = batch * config_.training.sequence_length;
  }
  loader_->prefetch(t * batch, machine_->inputs().size());
  times_.data += now() - begin;
  return counted;
}

void Trainer::set_exit_scales(std::int64_t t, double counted) {
  const auto scales = machine_->exit_scale();
  for (std::size_t e = 0; e < scales.size(); ++e)
    *scales[e].as<float>() = counted > 0 ? static_cast<float>(exit_weight(config_, e, t) / counted) : 0.0f;
}

Trainer::Outcome Trainer::reduce(std::int64_t t) {
  activity_.begin(fmt::format("step {}, gradient norm", t));
  const double begin = now();
  Context& ctx = machine_->context();
  gradient_squares(ctx, machine_->flat(), *names_, {mesh_.at.data, mesh_.degrees.data}, machine_->squares());
  times_.optimizer += now() - begin;
  share_phases();
  const double waiting = now();
  activity_.begin(fmt::format("step {}, statistics", t));
  all_reduce(ctx, machine_->statistics(), world_).wait(ctx);
  times_.communication += now() - waiting;
  Outcome outcome;
  const double* phases = machine_->phases().as<double>();
  outcome.phases = {phases[0], phases[1], phases[2], phases[3], phases[4], phases[5]};
  outcome.grad_norm = gradient_norm(machine_->squares());
  read_losses(t, outcome);
  return outcome;
}

// Puts this rank's times into the statistics, so that they come back as means over ranks. What comes after them in a step, the
// reduction and the update, counts in the next one.
void Trainer::share_phases() {
  const std::array<double, kPhases> mine = {times_.forward,       times_.backward,  times_.exits,
                                            times_.communication, times_.optimizer, times_.data};
  for (std::size_t i = 0; i < mine.size(); ++i) machine_->phases().as<double>()[i] = mine[i] / world_.size();
  times_ = {};
}

// From the sums of each exit: cross-entropy | weighted by confidence | right | counted.
void Trainer::read_losses(std::int64_t t, Outcome& outcome) const {
  const double* sums = machine_->sums().as<double>();
  for (std::size_t e = 0; e < machine_->model().heads.size(); ++e) {
    const double* s = sums + e * kLossSums;
    const double counted = std::max(1.0, s[3]);
    outcome.exit_losses.push_back(s[0] / counted);
    outcome.accuracies.push_back(s[2] / counted);
    outcome.tokens = std::max(outcome.tokens, static_cast<std::int64_t>(s[3]));
    outcome.loss += exit_weight(config_, e, t) * s[1] / counted;
  }
}

// Whether the step may touch parameters. All ranks see the same sums, so all decide alike.
bool Trainer::finite(std::int64_t t, const Outcome& outcome) const {
  std::string what;
  for (std::size_t e = 0; e < outcome.exit_losses.size() && what.empty(); ++e)
    if (!std::isfinite(outcome.exit_losses[e])) what = fmt::format("the loss of {} is {}", exit_label(config_, e), outcome.exit_losses[e]);
  for (std::int64_t i = 0; i < names_->size() && what.empty(); ++i)
    if (!std::isfinite(machine_->squares().as<double>()[i])) what = fmt::format("the gradient of {} is not finite", names_->name(i));
  if (what.empty()) return true;
  what = fmt::format("step {}: {}; no parameter was changed", t, what);
  if (config_.training.nan == "abort")
    throw AgreedError(Exit::numerical, error_line(world_.rank(), Exit::numerical,
                                                  what + ". Look at the data of this step, lower optimizer.lr, or set training.nan: skip"));
  if (log_) log_->warn(what + ", the step is skipped");
  return false;
}

void Trainer::update(std::int64_t t, const Outcome& outcome) {
  activity_.begin(fmt::format("step {}, optimizer", t));
  const double begin = now();
  Context& ctx = machine_->context();
  const double lr = learning_rate(config_.optimizer.lr_schedule, config_.optimizer.lr, t, config_.training.steps);
  set_scalars(machine_->scalars(), {lr, clip_factor(outcome.grad_norm, config_.optimizer.clip_grad_norm), ++updates_}, config_.optimizer);
  apply_update(ctx, machine_->flat(), config_.optimizer, machine_->scalars());
  for (const TiedHere& here : machine_->flat().tied())
    share_value(ctx, here, machine_->ties()[static_cast<std::size_t>(here.tie)], mesh_.at.pipeline, mesh_.pipeline);
  times_.optimizer += now() - begin;
}

void Trainer::log_step(std::int64_t t, const Outcome& outcome, double seconds) {
  if (!log_) return;
  StepRecord record;
  record.step = t;
  record.loss = outcome.loss;
  record.final_loss = outcome.exit_losses.back();
  record.exit_losses = by_layer(outcome.exit_losses);
  record.lr = learning_rate(config_.optimizer.lr_schedule, config_.optimizer.lr, t, config_.training.steps);
  record.grad_norm = outcome.grad_norm;
  record.tokens = config_.training.global_batch_size * config_.training.sequence_length;
  record.step_time_s = seconds;
  record.tokens_per_s = static_cast<double>(record.tokens) / seconds;
  record.mfu = flops_per_step_ / (seconds * peak_flops_);
  record.peak_bytes = static_cast<std::int64_t>(peak_bytes_);
  record.phase_s = outcome.phases;
  log_->step(record);
}

ByLayer Trainer::by_layer(const std::vector<double>& of_exits) const {
  ByLayer values;
  for (std::size_t e = 0; e < config_.exits.size(); ++e) values.emplace_back(config_.exits[e].layer, of_exits[e]);
  return values;
}

ExportOptions Trainer::export_options() const {
  return {config_.export_hf, config_.exits, tokenizer_beside(config_.data.train.front().path)};
}

void Trainer::export_model() {
  activity_.begin("export");
  export_hugging_face(export_options(), *machine_);
  if (log_) log_->note(fmt::format("exported to {}", config_.export_hf));
}

void train(const Config& config, const Group& world, Activity& activity) { Trainer(config, world, activity).run(); }

}  // namespace offramp
