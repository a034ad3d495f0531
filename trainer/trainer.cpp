#include "trainer/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>

#include "comm/host.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kPreemptionVote = 3;  // after those of checkpoints

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

void Trainer::run() {
  try {
    std::vector<std::string> notes = checkpoints_->notes();
    if (features_) notes.push_back(features_->note());
    if (log_) log_->begin(notes);
    const std::int64_t first = at_.step + 1, last = config_.last_step();
    for (std::int64_t t = first; t <= last; ++t) {
      const bool preempted = step(t).preempted;
      if (run_lock_) run_lock_->check();
      if (checkpoints_->due(t, preempted)) warn(checkpoints_->save(at_));
      if (preempted) end_preempted(t);
      const std::int64_t interval = config_.training.validation_interval;
      if (t == last || (interval > 0 && t % interval == 0)) validate(t);
    }
    if (first > last) validate(at_.step);
    if (!config_.export_hf.empty()) export_model();
    const auto failure = checkpoints_->finish();
    warn(failure);
    if (failure)
      throw AgreedError(Exit::checkpoint, error_line(world_.rank(), Exit::checkpoint, "the last checkpoint could not be written"));
    if (log_) log_->finish();
  } catch (const AgreedError&) {
    throw;
  } catch (const Error& e) {
    throw Error(e.code, fmt::format("{}: {}", activity_.text(), e.what()));
  }
}

void Trainer::end_preempted(std::int64_t t) {
  const std::string& directory = config_.checkpoint.directory;
  const auto failure = checkpoints_->finish();
  warn(failure);
  if (log_) log_->finish();
  const Exit code = failure || directory.empty() ? Exit::checkpoint : Exit::preempted;  // 75 says that the state is saved
  const std::string what = failure             ? "the state could not be saved"
                           : directory.empty() ? "nothing is saved, since checkpoint.directory is not set"
                                               : "the state is saved in " + directory + "; --resume auto goes on from there";
  throw AgreedError(code, error_line(world_.rank(), code, fmt::format("step {}: ended by a signal: {}", t, what)));
}

Trainer::Outcome Trainer::step(std::int64_t t) {
  sort_channels(t);
  take_teacher(t);
  const double begin = now();
  profiler_->begin(t);
  fill_zero(machine_->context(), machine_->statistics());
  set_passes(t);
  set_scales(t, load(t));
  set_layer_rates(t);
  machine_->train(fmt::format("step {}", t), times_);
  const Outcome outcome = reduce(t);
  if (finite(t, outcome)) update(t);
  at_.step = t, at_.samples += step_samples();
  profiler_->end(t);
  log_step(t, outcome, now() - begin);
  return outcome;
}

// With those of partial microbatches.
std::int64_t Trainer::step_samples() const {
  return machine_->layout().microbatches * config_.training.micro_batch_size * mesh_.degrees.data;
}

// The counted tokens of each microbatch, of all data ranks. Whole microbatches take the batch's samples, partial ones those beyond.
std::vector<double> Trainer::load(std::int64_t t) {
  activity_.begin(fmt::format("step {}, data", t));
  const double begin = now();
  constexpr std::int64_t kNoEnd = std::numeric_limits<std::int64_t>::max();
  const std::span<MicrobatchInput> inputs = machine_->inputs();
  const auto before = static_cast<std::size_t>(first_whole(machine_->layout())),
             whole = static_cast<std::size_t>(machine_->options().microbatches);
  const std::size_t after = inputs.size() - before - whole;
  const std::int64_t beyond = at_.samples + config_.training.global_batch_size;
  std::vector<double> counted;
  for (const auto& [first, part] :
       {std::pair{beyond, inputs.first(before)}, {at_.samples, inputs.subspan(before, whole)}, {beyond, inputs.last(after)}})
    for (const std::int64_t n : loader_->fill(first, kNoEnd, part)) counted.push_back(static_cast<double>(n));
  if (mesh_.degrees.data > 1 && train_->has_loss_mask()) {
    const Tensor all(counted.data(), {static_cast<std::int64_t>(counted.size())}, DType::f64);
    all_reduce(machine_->context(), all, mesh_.data).wait(machine_->context());
  } else {
    for (double& n : counted) n *= mesh_.degrees.data;  // without a mask all count
  }
  loader_->prefetch(at_.samples + step_samples(), inputs.size());
  if (features_) loader_->each_sample(at_.samples + step_samples(), inputs.size(), [&](std::int64_t g) { features_->prefetch(g); });
  times_.data += now() - begin;
  return counted;
}

void Trainer::set_layer_rates(std::int64_t t) {
  const auto rates = machine_->layer_rates();
  for (std::size_t l = 0; l < rates.size(); ++l)
    rates[l] = static_cast<float>(
        layerskip_rate(config_.layerskip, {config_.model.num_hidden_layers, config_.training.steps}, static_cast<std::int64_t>(l), t - 1));
}

Trainer::Outcome Trainer::reduce(std::int64_t t) {
  activity_.begin(fmt::format("step {}, gradient norm", t));
  const double begin = now();
  Context& ctx = machine_->context();
  gradient_squares(ctx, machine_->flat(), *names_, mesh_.at.tensor, machine_->squares());
  times_.optimizer += now() - begin;
  share_phases();
  checkpoints_->vote();
  double& asked = machine_->votes().as<double>()[kPreemptionVote];
  asked = preemption_.requested() ? 1 : 0;
  const double waiting = now();
  activity_.begin(fmt::format("step {}, statistics", t));
  all_reduce(ctx, machine_->statistics(), world_).wait(ctx);
  times_.communication += now() - waiting;
  Outcome outcome;
  outcome.preempted = asked > 0;
  warn(checkpoints_->hear());
  const double* phases = machine_->phases().as<double>();
  outcome.phases = {phases[0], phases[1], phases[2], phases[3], phases[4], phases[5]};
  outcome.grad_norm = gradient_norm(machine_->squares());
  read_losses(t, machine_->passes(), outcome);
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

// Whether the step may touch parameters. All ranks see the same sums, so all decide alike.
bool Trainer::finite(std::int64_t t, const Outcome& outcome) const {
  std::string what;
  for (std::size_t e = 0; e < outcome.exit_losses.size() && what.empty(); ++e)
    if (!std::isfinite(outcome.exit_losses[e])) what = fmt::format("the loss of {} is {}", exit_label(config_, e), outcome.exit_losses[e]);
  for (const SubnetResult& subnet : outcome.subnets)
    if (!std::isfinite(subnet.loss) && what.empty()) what = fmt::format("the loss of the subnet {} is {}", subnet.subnet, subnet.loss);
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

void Trainer::update(std::int64_t t) {
  activity_.begin(fmt::format("step {}, optimizer", t));
  const double begin = now();
  Context& ctx = machine_->context();
  const double lr = learning_rate(config_.optimizer.lr_schedule, config_.optimizer.lr, t, config_.training.steps);
  const std::vector<double> norms = group_norms(machine_->squares(), *names_);
  ++at_.updates;
  for (std::size_t g = 0; g < norms.size(); ++g)
    set_scalars(machine_->scalars().narrow(0, static_cast<std::int64_t>(g), 1).reshape({4}),
                {lr, clip_factor(norms[g], config_.optimizer.clip_grad_norm), at_.updates}, config_.optimizer);
  apply_update(ctx, machine_->flat(), config_.optimizer, machine_->scalars());
  machine_->share_values();
  times_.optimizer += now() - begin;
}

// Of the whole job.
double Trainer::step_flops() const {
  double flops = 0;
  for (const Pass& pass : machine_->passes()) flops += flops_[machine_->pass_kind(pass)];
  return flops;
}

void Trainer::log_step(std::int64_t t, const Outcome& outcome, double seconds) {
  if (!log_) return;
  StepRecord record;
  record.step = t;
  record.loss = outcome.loss;
  record.final_loss = of_final_head(outcome.exit_losses);
  record.exit_losses = by_layer(outcome.exit_losses);
  record.exit_acceptances = by_layer(outcome.acceptances);
  record.exit_agreements = by_layer(outcome.agreements);
  record.subnets = outcome.subnets;
  record.lr = learning_rate(config_.optimizer.lr_schedule, config_.optimizer.lr, t, config_.training.steps);
  record.grad_norm = outcome.grad_norm;
  record.tokens = step_samples() * config_.training.sequence_length;
  record.step_time_s = seconds;
  record.tokens_per_s = static_cast<double>(record.tokens) / seconds;
  record.mfu = step_flops() / (seconds * peak_flops_);
  record.peak_bytes = static_cast<std::int64_t>(peak_bytes_);
  record.phase_s = outcome.phases;
  log_->step(record);
}

ExportOptions Trainer::export_options() const {
  ExportOptions options{config_.export_hf, config_.exits, carried_tokenizer(config_)};
  if (config_.frozen_backbone())
    options.backbone = [this] { return backbone_of(checkpoints_->base(), config_.model, config_.training.seed); };
  return options;
}

void Trainer::export_model() {
  activity_.begin("export");
  export_hugging_face(export_options(), *machine_);
  if (log_) log_->note(fmt::format("exported to {}", config_.export_hf));
}

// A checkpoint that could not be written is no reason to end: the one before it is still there.
void Trainer::warn(const std::optional<std::string>& failure) {
  if (!failure) return;
  const std::string what = "no checkpoint was written: " + (failure->empty() ? "another rank says why" : *failure);
  if (log_)
    log_->warn(what);
  else if (!failure->empty())
    fmt::print(stderr, "{}\n", error_line(world_.rank(), Exit::checkpoint, what));
}

void train(const Config& config, const std::string& resume, const Group& world, Activity& activity, const Preemption& preemption) {
  Trainer(config, resume, world, activity, preemption).run();
}

}  // namespace offramp
