#include "trainer/checkpoints.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "checkpoint/file.h"
#include "checkpoint/publish.h"
#include "checkpoint/starting_weights.h"
#include "comm/host.h"
#include "tensor/check.h"
#include "trainer/base_model.h"
#include "trainer/carried_tokenizer.h"
#include "trainer/resume.h"
#include "trainer/sound_checkpoint.h"

namespace offramp {
namespace {

constexpr const char* kAuto = "auto";

std::string note_of_base(const BaseModel& base, const std::vector<ExitSpec>& exits) {
  std::set<int> here, anew, left_out;
  for (const ExitSpec& exit : exits) {
    here.insert(exit.layer);
    if (exit.init != ExitInit::base) anew.insert(exit.layer);
  }
  for (const ExitSpec& exit : base.exits())
    if (!here.contains(exit.layer)) left_out.insert(exit.layer);
  std::string note = "weights from " + base.directory();
  if (!anew.empty()) note += fmt::format("; exits begin anew at layer {}", fmt::join(anew, ", "));
  if (!left_out.empty()) note += fmt::format("; its exits at layer {} are left out", fmt::join(left_out, ", "));
  return note;
}

}  // namespace

std::string draw_run_id(Context& ctx, const Group& world) {
  std::int32_t drawn = static_cast<std::int32_t>(std::random_device()());
  broadcast(ctx, Tensor(&drawn, {1}, DType::i32), world, 0).wait(ctx);
  return fmt::format("{:08x}", static_cast<std::uint32_t>(drawn));
}

Checkpoints::Checkpoints(const Config& config, const Group& world, Machine& machine, Activity& activity, std::string run_id)
    : config_(config), world_(world), machine_(machine), activity_(activity), run_id_(std::move(run_id)) {
  agree(machine.context(), world, failure_of([&] {
          data_ = fingerprints(config);
          if (config.checkpoint.directory.empty() || world.rank() != 0) return;
          std::error_code error;
          std::filesystem::create_directories(config.checkpoint.directory, error);
          if (error) fail_io(config.checkpoint.directory, "create", error.value());
          remove_unfinished(config.checkpoint.directory);
        }));
  if (config.checkpoint.directory.empty()) return;
  const CarriedTokenizer tokenizer = carried_tokenizer(config);
  end_token_ = tokenizer.end_token;
  SaverOptions options{config.checkpoint.directory, run_id_, world.rank(), world.size(), config.checkpoint.keep, tokenizer.write};
  saver_ = std::make_unique<Saver>(options, machine.snapshot());
}

std::optional<Error> Checkpoints::failure_of(const std::function<void()>& body) const {
  try {
    body();
  } catch (const Error& e) {
    return e;
  }
  return std::nullopt;
}

Position Checkpoints::resume(const std::string& request) {
  if (!request.empty()) {
    activity_.begin("looking for a checkpoint");
    if (const auto directory = choose(request)) return load(*directory), position_;
  }
  if (!config_.model_from.empty()) load_base();
  return position_;
}

std::optional<std::string> Checkpoints::choose(const std::string& request) {
  const std::string directory = request == kAuto ? config_.checkpoint.directory : request;
  Context& ctx = machine_.context();
  agree(ctx, world_, failure_of([&] {
          if (directory.empty()) fail(Exit::configuration, "--resume auto needs checkpoint.directory");
        }));
  if (auto step = newest_sound(ctx, world_, activity_, directory, notes_)) return step;
  agree(ctx, world_, failure_of([&] {
          if (request != kAuto)
            fail(Exit::checkpoint, "{}: no checkpoint is there; name a directory step-N, or one that holds some", directory);
        }));
  notes_.push_back(fmt::format("no checkpoint in {} yet: starting at step 0", directory));
  return std::nullopt;
}

void Checkpoints::load(const std::string& directory) {
  activity_.begin("loading " + directory);
  const Degrees& degrees = machine_.mesh().degrees;
  agree(machine_.context(), world_, failure_of([&] {
          Checkpoint checkpoint(directory);
          const Manifest& m = checkpoint.manifest();
          if (!machine_.options().optimizer_state.empty() && checkpoint.kinds().size() == 1)
            fail(Exit::checkpoint, "{}: holds weights alone, which are no state to resume from; start from them with model.from",
                 directory);
          check_resume(m, config_, data_);
          load_state(machine_, checkpoint);
          check_teacher(directory, m.step);
          load_backbone(m.base);
          position_ = {m.step, m.samples, m.updates};
          notes_.push_back(fmt::format("resumed from {}", directory));
          if (const std::string why = no_longer_bitwise(m, config_, degrees); !why.empty())
            notes_.push_back(
                fmt::format("from here on the numbers may differ in their last bits from those of a run that never stopped: {}", why));
        }));
  machine_.share_values();
}

// Subnets that already learned from labels, or from the whole beside them, have no teacher to go on with.
void Checkpoints::check_teacher(const std::string& directory, std::int64_t step) const {
  if (machine_.teacher() && !machine_.teacher()->taken() && step > config_.supernet.start)
    fail(Exit::configuration, "supernet.start: {} has no teacher of step {}; set start to {} or more, or distillation: false", directory,
         config_.supernet.start, step);
}

// Weights alone: step, optimizer and data are those of a new job.
void Checkpoints::load_base() {
  const std::string from = is_hugging_face(config_.model_from) ? config_.model_from : choose(config_.model_from).value();
  activity_.begin("loading " + from);
  agree(machine_.context(), world_, failure_of([&] {
          BaseWeights source(from);
          const BaseModel& base = source.model();
          if (!base.is(config_.model))
            fail(Exit::checkpoint, "{}: is of another model than the newest of {}; name one of them", from, config_.model_from);
          StartingWeights weights(source, config_.model, config_.exits);
          load_weights(machine_, weights, from, weights.random());
          if (config_.frozen_backbone()) base_ = frozen_base(base);
          notes_.push_back(note_of_base(base, config_.exits));
        }));
  machine_.share_values();
}

// One that came from nowhere is there already: initialisation made it again.
void Checkpoints::load_backbone(const FrozenBase& base) {
  if (base.empty()) return;
  const auto weights = backbone_of(base, config_.model, config_.training.seed);
  load_frozen(machine_, *weights, base.at("directory"));
  base_ = base;
}

bool Checkpoints::due(std::int64_t step, bool last) const {
  if (!saver_ || step <= position_.step) return false;
  const std::int64_t interval = config_.checkpoint.interval;
  return last || step == config_.last_step() || (interval > 0 && step % interval == 0);
}

std::optional<std::string> Checkpoints::save(const Position& at) {
  auto failure = wait();
  activity_.begin(fmt::format("step {}, a copy for its checkpoint", at.step));
  take_snapshot(machine_, machine_.snapshot());
  saver_->begin(head(at), saved_boxes(machine_));
  return failure;
}

void Checkpoints::vote() const {
  if (!saver_) return;
  const Saver::Progress mine = saver_->progress();
  double* votes = machine_.votes().as<double>();
  votes[0] = mine.written, votes[1] = mine.failed, votes[2] = mine.published;
}

std::optional<std::string> Checkpoints::hear() {
  if (!saver_) return std::nullopt;
  const double* votes = machine_.votes().as<double>();
  return saver_->advance({votes[0], votes[1], votes[2]});
}

// Between steps, where no statistics are summed.
std::optional<std::string> Checkpoints::wait() {
  std::optional<std::string> failure;
  while (saver_ && saver_->busy() && !failure) {
    activity_.begin("waiting for a checkpoint to be written");
    vote();
    const Tensor votes = machine_.votes();
    all_reduce(machine_.context(), votes, world_).wait(machine_.context());
    failure = hear();
    fill_zero(machine_.context(), votes);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return failure;
}

std::optional<std::string> Checkpoints::finish() { return wait(); }

Manifest Checkpoints::head(const Position& at) const {
  Manifest m{.run_id = run_id_, .step = at.step, .samples = at.samples, .updates = at.updates};
  m.configuration = remembered(config_);
  if (end_token_ >= 0) m.configuration[kEndToken] = std::to_string(end_token_);
  m.layout = layout_of(config_, machine_.mesh().degrees);
  m.made_by = made_by();
  m.data = data_;
  m.base = base_;
  m.supernet = config_.supernet.space;
  return m;
}

}  // namespace offramp
