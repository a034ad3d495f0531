#include "trainer/plan_command.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/file.h"
#include "parallel/partition.h"
#include "parallel/trace.h"
#include "tensor/check.h"
#include "trainer/cluster_file.h"
#include "trainer/commands.h"
#include "trainer/compare_trace.h"
#include "trainer/job.h"
#include "trainer/planned_step.h"
#include "trainer/yaml.h"

namespace offramp {
namespace {

struct Speed {
  double tokens_per_s = 0;
  std::optional<double> mfu;  // of a cluster whose peak is known
};

Speed speed_of(const StepPlan& plan, const PlannedJob& job, const Cluster& cluster) {
  const MachineOptions& o = job.options;
  const double tokens = static_cast<double>(o.micro_batch_size * o.sequence_length) *
                        (plan.layout.microbatches / plan.layout.pass_count()) * job.degrees.data;
  const double peak = o.precision == DType::bf16 ? cluster.bf16_flops : cluster.fp32_flops;
  Speed speed{.tokens_per_s = tokens / plan.step_s, .mfu = {}};
  if (!cluster.times) speed.mfu = plan.model_flops / (peak * job.degrees.world() * plan.step_s);
  return speed;
}

nlohmann::ordered_json rank_json(int number, const RankPlan& rank) {
  const MemoryPlan& m = rank.memory;
  return {{"rank", number},
          {"parameters_bytes", m.parameters},
          {"gradients_bytes", m.gradients},
          {"optimizer_bytes", m.optimizer},
          {"activations_bytes", m.activations},
          {"transient_bytes", m.transients},
          {"peak_bytes", m.peak},
          {"in_flight", rank.in_flight},
          {"flops", rank.flops},
          {"sent_bytes", {{"tensor", rank.sent.tensor}, {"pipeline", rank.sent.pipeline}, {"data", rank.sent.data}}}};
}

std::string json_text(const PlannedSteps& steps, const Speed& speed) {
  const StepPlan& plan = steps.plan;
  nlohmann::ordered_json json = {{"step_time_s", plan.step_s},
                                 {"lower_bound_s", plan.lower_bound_s},
                                 {"bubble_fraction", plan.bubble},
                                 {"tokens_per_s", speed.tokens_per_s},
                                 {"mfu", nullptr},
                                 {"supernet", passes_json(steps)},
                                 {"ranks", nlohmann::ordered_json::array()}};
  if (speed.mfu) json["mfu"] = *speed.mfu;
  for (int r = 0; r < plan.degrees.world(); ++r) json["ranks"].push_back(rank_json(r, plan.of(coordinates(r, plan.degrees))));
  return json.dump(2) + "\n";
}

// Ranks of one place on the data axis: they are alike. "0, 4, 8, ... 60".
std::string numbers_of(const RankPlan& rank, const StepPlan& plan) {
  std::vector<int> ranks;
  for (int d = 0; d < plan.degrees.data; ++d)
    for (int t = rank.tensor; t < (plan.tensor_ranks > 1 ? rank.tensor + 1 : plan.degrees.tensor); ++t)
      ranks.push_back(rank_of({.tensor = t, .pipeline = rank.pipeline, .data = d}, plan.degrees));
  if (ranks.size() <= 4) return fmt::format("{}", fmt::join(ranks, ", "));
  return fmt::format("{}, {}, {}, ... {}", ranks[0], ranks[1], ranks[2], ranks.back());
}

constexpr const char* kRow = "{:>5} {:>7}  {:>10} {:>10} {:>10} {:>11} {:>10} {:>10}  {:>9}  {:>11}  {:>10} {:>10} {:>10}  {:>9}  {}\n";

std::string table(const StepPlan& plan) {
  std::string text = fmt::format(kRow, "stage", "layers", "parameters", "gradients", "optimizer", "activations", "transients", "peak",
                                 "in flight", "work", "tensor", "pipeline", "data", "busy", "ranks");
  for (const RankPlan& rank : plan.ranks) {
    const MemoryPlan& m = rank.memory;
    const auto bytes = [](auto n) { return bytes_text(static_cast<double>(n)); };
    text += fmt::format(kRow, rank.pipeline, layers_text(plan.partition, rank.pipeline, plan.layout.ranks), bytes(m.parameters),
                        bytes(m.gradients), bytes(m.optimizer), bytes(m.activations), bytes(m.transients), bytes(m.peak), rank.in_flight,
                        flops_text(rank.flops), bytes(rank.sent.tensor), bytes(rank.sent.pipeline), bytes(rank.sent.data),
                        fmt::format("{:.1f} %", 100 * rank.busy_s / plan.timeline.seconds), numbers_of(rank, plan));
  }
  return text;
}

std::string heading(const PlannedJob& job, const std::string& cluster) {
  const MachineOptions& o = job.options;
  const Degrees& d = job.degrees;
  return fmt::format("{} ranks: tensor {}{} x pipeline {} x data {}{}, microbatches of {} x {} tokens, {} a rank and step\ncluster: {}\n\n",
                     d.world(), d.tensor, o.sequence_parallel && d.tensor > 1 ? " (sequence parallel)" : "", d.pipeline, d.data,
                     o.shard_state && d.data > 1 ? " (optimizer sharded)" : "", o.micro_batch_size, o.sequence_length, o.microbatches,
                     cluster);
}

std::string summary(const StepPlan& plan, const Speed& speed) {
  std::string text = fmt::format("\nstep {}, of which the update {}; {:.0f} tokens/s", seconds_text(plan.step_s),
                                 seconds_text(plan.update_s), speed.tokens_per_s);
  if (speed.mfu) text += fmt::format(", {:.1f} % of the peak", 100 * *speed.mfu);
  text += fmt::format("\nlower bound {}; ranks wait {:.2f} % of the passes; with messages that take no time the step is {} shorter\n",
                      seconds_text(plan.lower_bound_s), 100 * plan.bubble, seconds_text(plan.messages_s));
  return text;
}

void write_timeline(const PlannedSteps& steps, const PlannedJob& job, const PlanArguments& arguments) {
  const StepPlan& plan = steps.plan;
  std::vector<PassName> passes = pass_names(steps.step, steps.config);
  if (passes.size() < 2) passes.clear();
  const std::string title = fmt::format("{}, {} pipeline {}, {} microbatches{}", job.options.schedule, job.degrees.pipeline,
                                        job.degrees.pipeline == 1 ? "rank" : "ranks", job.options.microbatches,
                                        passes.empty() ? "" : fmt::format(" of {} passes", passes.size()));
  if (!arguments.svg.empty())
    write_file(arguments.svg,
               timeline_svg(plan.timeline, {.title = title, .passes = passes, .ends_with_head = !job.options.frozen_backbone}));
  if (!arguments.trace.empty()) write_file(arguments.trace, timeline_chrome_trace(plan.timeline));
}

Cluster cluster_of(const PlanArguments& arguments, const Config& config, int ranks) {
  if (arguments.cluster.empty()) return {};
  if (arguments.cluster != "measured") return read_cluster(arguments.cluster);
  return measure_cluster(config.training.precision == "bf16" ? DType::bf16 : DType::f32, config.training.threads, ranks);
}

std::string cluster_name(const PlanArguments& arguments, const Cluster& cluster) {
  if (arguments.cluster.empty()) return "nodes of eight H100, as in configs/clusters/h100.yaml; name another by --cluster";
  if (arguments.cluster != "measured") return arguments.cluster;
  return fmt::format("this machine: products {:.3g} GFLOP/s, memory {:.3g} GB/s, messages {:.3g} GB/s after {:.3g} us",
                     cluster.fp32_flops / 1e9, cluster.memory_bandwidth / 1e9, cluster.inside.bandwidth / 1e9,
                     1e6 * cluster.inside.latency);
}

template <std::size_t N>
std::string with_unit(double value, const std::array<std::pair<double, const char*>, N>& units) {
  for (const auto& [size, name] : units)
    if (value >= size) return fmt::format("{:.4g} {}", value / size, name);
  return value == 0 ? "-" : fmt::format("{:.3g} {}", value / units.back().first, units.back().second);
}

}  // namespace

std::string bytes_text(double bytes) {
  return with_unit(bytes, std::array<std::pair<double, const char*>, 4>{{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}}});
}
std::string seconds_text(double seconds) {
  return with_unit(seconds, std::array<std::pair<double, const char*>, 3>{{{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}}});
}
std::string flops_text(double flops) {
  return with_unit(flops,
                   std::array<std::pair<double, const char*>, 4>{{{1e15, "PFLOP"}, {1e12, "TFLOP"}, {1e9, "GFLOP"}, {1e6, "MFLOP"}}});
}

PlannedJob planned_job(const Config& configured, int ranks, const std::vector<Pass>& passes) {
  const Config config = training_layout(configured);
  const Degrees degrees = degrees_of(config, ranks);
  return {machine_options(config, degrees), degrees, config.optimizer, passes};
}

std::string run_plan_command(const PlanArguments& arguments) {
  const LocatedConfig located = read_located_config(arguments.config, arguments.sets);
  const Config& config = located.config;
  omp_set_num_threads(config.training.threads);  // what kernels borrow depends on it
  const int least = static_cast<int>(config.parallel.ranks_per_replica() * std::max(config.parallel.data_parallel_size, 1));
  const int ranks = arguments.ranks > 0 ? arguments.ranks : least;
  const Cluster cluster = cluster_of(arguments, config, ranks);
  if (arguments.search && config.parallel.schedule.starts_with(kScheduleFile))
    fail(Exit::configuration, "{}: --search tries layouts that this schedule does not fit; add --set parallel.schedule=1f1b",
         config.parallel.schedule);
  if (arguments.search && config.caches_features())
    fail(Exit::configuration,
         "tuning.feature_cache: all ranks are replicas, --search has nothing to try; add --set tuning.feature_cache=null");
  if (arguments.search) return fmt::format("cluster: {}\n\n", cluster_name(arguments, cluster)) + search_layouts(config, ranks, cluster);
  check_world(located, ranks);
  const PlannedStep step = planned_step(config);
  const PlannedJob job = planned_job(config, ranks, step.passes);
  const bool time_alone = arguments.dump_schedule || !arguments.compare.empty();
  const StepPlan plan = time_alone ? plan_time(job, cluster) : plan_step(job, cluster);
  const StepPlan whole = step.drawn() ? plan_time(planned_job(config, ranks), cluster) : plan;
  const PlannedSteps steps{config, step, plan, whole};
  write_timeline(steps, job, arguments);
  if (arguments.dump_schedule) return to_text(plan.schedule);
  if (!arguments.compare.empty()) return comparison_text(plan.timeline, read_trace(arguments.compare, job.degrees.pipeline));
  const Speed speed = speed_of(plan, job, cluster);
  if (arguments.json) return json_text(steps, speed);
  const char* unfused = cluster.fused_attention ? "" : "\nattention is not fused: activations by Megatron's formula, not of this program";
  return heading(job, cluster_name(arguments, cluster) + unfused) + passes_text(steps) + table(plan) + summary(plan, speed) +
         shares_text(steps);
}

}  // namespace offramp
