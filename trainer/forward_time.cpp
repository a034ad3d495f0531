#include "trainer/forward_time.h"

#include <algorithm>
#include <chrono>

#include "checkpoint/subnet_source.h"
#include "trainer/opened_model.h"

namespace offramp {
namespace {

constexpr int kRuns = 7;

}  // namespace

double forward_seconds(const Config& config, const Subnet& subnet, Activity& activity) {
  Config alone = config;
  alone.model = subnet_config(config.model, config.exits, subnet);
  alone.exits = {};
  alone.training.micro_batch_size = 1;
  alone.data.document_mask = false;
  const MachineOptions options = evaluation_options(alone, 1);
  Machine machine(options, Mesh(), Backing::host, plan_memory(options, Mesh()).peak);
  for (const Parameter* parameter : machine.flat().holders()) fill_zero(machine.context(), parameter->value);  // pages of their own
  fill_zero(machine.context(), machine.inputs().front().ids), fill_zero(machine.context(), machine.inputs().front().labels);
  std::vector<double> seconds;
  for (int run = 0; run <= kRuns; ++run) {  // the first one makes the kernels
    activity.beat();
    PhaseTimes times;
    const auto begin = std::chrono::steady_clock::now();
    machine.evaluate(1, "latency", times);
    if (run > 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::ranges::nth_element(seconds, seconds.begin() + kRuns / 2);
  return seconds[kRuns / 2];
}

}  // namespace offramp
