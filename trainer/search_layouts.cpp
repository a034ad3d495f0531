// All layouts of a number of ranks, by the time of their step; memory is planned from the fastest on, until enough of them fit.
#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "tensor/check.h"
#include "trainer/check_config.h"
#include "trainer/plan_command.h"
#include "trainer/planned_step.h"

namespace offramp {
namespace {

constexpr std::size_t kShown = 10;

struct Candidate {
  Config config;
  PlannedJob job;
  StepPlan plan;
  double peak = 0;  // bytes of the fullest rank; 0: not planned
};

bool valid(const Config& config, int ranks) {
  Problems problems;
  check_config(config, ranks, {}, {}, problems);
  return problems.empty();
}

// Powers of two, as far as they leave a microbatch a stage: fewer never pay.
std::vector<std::int64_t> microbatch_sizes(const Config& config) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 1; size <= 64 && size <= config.training.global_batch_size; size *= 2) sizes.push_back(size);
  if (std::ranges::count(sizes, config.training.micro_batch_size) == 0) sizes.push_back(config.training.micro_batch_size);
  return sizes;
}

std::vector<Config> layouts(const Config& config, int ranks, const Cluster& cluster) {
  std::vector<Config> all;
  for (int tensor = 1; tensor <= std::min(ranks, cluster.ranks_per_node); ++tensor)
    for (int pipeline = 1; pipeline * tensor <= ranks; ++pipeline)
      for (const std::int64_t size : microbatch_sizes(config)) {
        if (ranks % (tensor * pipeline) != 0) continue;
        Config one = config;
        const int data = ranks / (tensor * pipeline);
        one.parallel.tensor_parallel_size = tensor, one.parallel.pipeline_parallel_size = pipeline, one.parallel.data_parallel_size = data;
        one.parallel.sequence_parallel = tensor > 1 && size * config.training.sequence_length % tensor == 0;
        one.training.micro_batch_size = size;
        if (valid(one, ranks) && one.microbatches(data) >= pipeline) all.push_back(std::move(one));
      }
  return all;
}

double peak_of(const StepPlan& plan) {
  double peak = 0;
  for (const RankPlan& rank : plan.ranks) peak = std::max(peak, static_cast<double>(rank.memory.peak));
  return peak;
}

// Where a step's time goes that is neither message, bubble nor update.
struct Parts {
  double waiting, messages, update, passes;
};
Parts parts_of(const StepPlan& plan) {
  const double waiting = plan.bubble * plan.timeline.seconds;
  return {waiting, plan.messages_s, plan.update_s, std::max(0.0, plan.step_s - waiting - plan.messages_s - plan.update_s)};
}

std::string compared(const StepPlan& plan, const StepPlan& best) {
  const Parts a = parts_of(plan), b = parts_of(best);
  const std::array<std::pair<double, const char*>, 4> losses = {{{a.waiting - b.waiting, "waits longer (bubble)"},
                                                                 {a.messages - b.messages, "messages take longer"},
                                                                 {a.update - b.update, "a larger update"},
                                                                 {a.passes - b.passes, "slower passes"}}};
  const auto most = std::ranges::max_element(losses, {}, [](const auto& loss) { return loss.first; });
  return fmt::format("+{:.1f} %: {}", 100 * (plan.step_s / best.step_s - 1), most->second);
}

// The plan without what only a picture needs, or why there is none: a limit of bytes is too low, no exit is where it is needed.
std::variant<StepPlan, std::string> try_plan(const PlannedJob& job, const Cluster& cluster) {
  try {
    StepPlan plan = plan_time(job, cluster);
    plan.schedule.clear(), plan.timeline.spans.clear();
    return plan;
  } catch (const Error& error) {
    if (error.code != Exit::configuration) throw;
    return error.what();
  }
}

constexpr const char* kRow = "{:>6} {:>8} {:>5} {:>10}  {:>10} {:>10} {:>10} {:>10}  {:>10}  {}\n";

std::string row(const Candidate& c, const std::string& why) {
  const Parts parts = parts_of(c.plan);
  return fmt::format(kRow, c.job.degrees.tensor, c.job.degrees.pipeline, c.job.degrees.data, c.config.training.micro_batch_size,
                     seconds_text(c.plan.step_s), seconds_text(parts.waiting), seconds_text(parts.messages), seconds_text(parts.update),
                     c.peak > 0 ? bytes_text(c.peak) : "", why);
}

// "the best: ..." in one line.
std::string reason(const Candidate& best, std::size_t too_large) {
  const Parts parts = parts_of(best.plan);
  std::string text =
      fmt::format("fastest that fits; of its step {:.1f} % waits, {:.1f} % are messages, {:.1f} % the update",
                  100 * parts.waiting / best.plan.step_s, 100 * parts.messages / best.plan.step_s, 100 * parts.update / best.plan.step_s);
  if (too_large > 0) text += fmt::format("; {} faster {} not fit", too_large, too_large == 1 ? "one does" : "ones do");
  return text;
}

}  // namespace

std::string search_layouts(const Config& config, int ranks, const Cluster& cluster) {
  std::vector<Candidate> all;
  std::vector<std::string> refused;
  const PlannedStep step = planned_step(config);
  for (Config& one : layouts(config, ranks, cluster)) {
    const PlannedJob job = planned_job(one, ranks, step.passes);
    auto tried = try_plan(job, cluster);
    if (auto* plan = std::get_if<StepPlan>(&tried))
      all.push_back({.config = std::move(one), .job = job, .plan = std::move(*plan)});
    else
      refused.push_back(std::get<std::string>(tried));
  }
  const std::string others = refused.empty() ? "" : fmt::format("{} more are refused, the first with: {}\n", refused.size(), refused[0]);
  if (all.empty()) return fmt::format("no layout of {} ranks can run this configuration\n", ranks) + others;
  std::ranges::stable_sort(all, {}, [](const Candidate& c) { return c.plan.step_s; });
  std::string fitting, large;
  const Candidate* best = nullptr;
  std::size_t shown = 0, too_large = 0;
  for (Candidate& c : all) {
    if (shown == kShown) break;
    c.peak = peak_of(plan_step(c.job, cluster));
    if (c.peak > cluster.memory) {
      if (!best) ++too_large;
      if (too_large + shown < 2 * kShown) large += row(c, fmt::format("more than the {} of a rank", bytes_text(cluster.memory)));
      continue;
    }
    fitting += row(c, best ? compared(c.plan, best->plan) : reason(c, too_large));
    if (!best) best = &c;
    ++shown;
  }
  const std::string head =
      fmt::format(kRow, "tensor", "pipeline", "data", "microbatch", "step", "waits", "messages", "update", "peak", "why");
  const std::string none = best ? "" : fmt::format("no layout of {} ranks fits; the fastest:\n", ranks);
  const char* which = step.drawn() ? " in the costliest of their steps" : "";
  return fmt::format("{} layouts of {} ranks, fastest first{}\n", all.size(), ranks, which) + others + none + head + fitting +
         (large.empty() ? "" : "\ntoo large:\n" + large);
}

}  // namespace offramp
