#include "trainer/job_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "tensor/check.h"

namespace offramp {
namespace {

std::string counted(std::int64_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

// "8 ranks: 2 replicas of 2 pipeline stages of 2 tensor ranks; bf16; 2 early exits; steps of 32 samples of 256 tokens"
std::string opening(const Config& config, const Degrees& degrees) {
  const std::string tensor = degrees.tensor > 1 ? fmt::format(" of {}", counted(degrees.tensor, "tensor rank")) : "";
  return fmt::format("{}: {} of {}{}; {}; {}; steps of {} of {}", counted(degrees.world(), "rank"), counted(degrees.data, "replica"),
                     counted(degrees.pipeline, "pipeline stage"), tensor, config.training.precision,
                     counted(static_cast<std::int64_t>(config.exits.size()), "early exit"),
                     counted(config.training.global_batch_size, "sample"), counted(config.training.sequence_length, "token"));
}

std::vector<ExitResult> results_of(const Config& config, const ValidationRecord& record) {
  OFFRAMP_CHECK(record.exit_losses.size() == config.exits.size() && record.exit_accuracies.size() == config.exits.size(),
                "[JobLog] losses of {} and accuracies of {} exits, the model has {}", record.exit_losses.size(),
                record.exit_accuracies.size(), config.exits.size());
  std::vector<ExitResult> results;
  for (std::size_t e = 0; e < config.exits.size(); ++e) {
    results.push_back(
        {"exit", config.exits[e].layer, name_of(config.exits[e].head), record.exit_losses[e].second, record.exit_accuracies[e].second});
    if (record.exit_acceptances.empty()) continue;
    results.back().acceptance = record.exit_acceptances[e].second, results.back().agreement = record.exit_agreements[e].second;
  }
  if (record.final_loss) {
    const int last = static_cast<int>(config.model.num_hidden_layers);
    results.push_back({"final", last, name_of(HeadKind::norm), *record.final_loss, record.final_accuracy.value_or(0)});
  }
  return results;
}

}  // namespace

JobLog::JobLog(const Config& config, const Degrees& degrees)
    : config_(config),
      degrees_(degrees),
      files_(config.logging.directory, config.logging.tensorboard),
      terminal_(stdout, {.last_step = config.last_step()}) {}

void JobLog::begin(const std::vector<std::string>& notes) {
  note(opening(config_, degrees_));
  for (const std::string& each : notes) note(each);
}

void JobLog::step(const StepRecord& record) {
  const auto interval = std::max<std::int64_t>(1, config_.logging.interval);
  if (record.step % interval == 0 || record.step == config_.last_step()) files_.write(record);
  terminal_.step(record);
}

void JobLog::validation(const ValidationRecord& record) {
  files_.write(record);
  terminal_.print(validation_table(record.set, record.step, results_of(config_, record)));
}

void JobLog::note(const std::string& text) { terminal_.print(text + "\n"); }

void JobLog::warn(const std::string& text) { terminal_.print("warning: " + text + "\n"); }

void JobLog::finish() { terminal_.finish(); }

}  // namespace offramp
