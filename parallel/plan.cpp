#include "parallel/plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <numeric>

#include "parallel/actions.h"
#include "parallel/settle.h"
#include "parallel/step_schedule.h"
#include "parallel/unfused_memory.h"

namespace offramp {
namespace {

Mesh mesh_of(const Degrees& degrees, int pipeline, int tensor) {
  return Mesh::planned(rank_of({.tensor = tensor, .pipeline = pipeline, .data = 0}, degrees), degrees);
}

Setting setting_of(const PlannedJob& job) {
  return {.degrees = job.degrees,
          .bf16 = job.options.precision == DType::bf16,
          .head_size = static_cast<double>(job.options.model.head_size()),
          .dropout = job.options.model.attention_dropout > 0};
}

struct Totals {
  double flops = 0, again = 0;  // again: of these, what only repeats a forward
  SentBytes sent;
  Totals& operator+=(const Totals& o) {
    flops += o.flops, again += o.again;
    sent.tensor += o.sent.tensor, sent.pipeline += o.sent.pipeline, sent.data += o.sent.data;
    return *this;
  }
};

Totals totals_of(const Counted& work) { return {work.flops(), 0, {work.sent("tensor"), work.sent("pipeline"), work.sent("data")}}; }

// What the actions of a program come to. The microbatches of a pass are alike, so each kind of action is counted once.
class Sums {
 public:
  Sums(const std::vector<ModelWork>& works, const Partition& partition, const Layout& layout)
      : works_(works), partition_(partition), layout_(layout) {}
  Totals of(const Program& program) {
    Totals all;
    for (const Action& action : program) all += of(action);
    return all;
  }
  // Without what is computed again.
  double flops_of_pass(const Program& program, int pass) {
    double flops = 0;
    for (const Action& action : program) {
      if (action.microbatch < 0 || layout_.pass_of(action.microbatch) != pass) continue;
      const Totals& one = of(action);
      flops += one.flops - one.again;
    }
    return flops;
  }

 private:
  const Totals& of(Action action) {
    if (action.microbatch >= 0) action.microbatch = static_cast<std::int16_t>(layout_.pass_of(action.microbatch));
    const auto [it, fresh] = known_.try_emplace(action);
    if (fresh) it->second = counted(action);
    return it->second;
  }
  // Selective recompute runs attention's forward within the backward.
  Totals counted(const Action& action) const {
    const Counted work = work_of(action, works_, partition_, layout_);
    Totals totals = totals_of(work);
    if (action.op == Op::Recompute) totals.again = totals.flops;
    if (action.op != Op::Backward) return totals;
    for (const Metered& call : work.calls) totals.again += std::string_view(call.name) == "attention" ? call.cost.flops : 0;
    return totals;
  }
  const std::vector<ModelWork>& works_;
  const Partition& partition_;
  const Layout& layout_;
  std::map<Action, Totals> known_;
};

Totals totals_of(const RankEnd& end) {
  Totals all = totals_of(end.update);
  for (const StageEnd& stage : end.stages)
    for (const auto* works : {&stage.buckets, &stage.ties})
      for (const Counted& one : *works) all += totals_of(one);
  return all;
}

// Holdings of the first tensor rank of each stage: their ends, and with them the layout.
class Planner {
 public:
  Planner(const PlannedJob& job, const Cluster& cluster) : job_(job), cluster_(cluster), setting_(setting_of(job)) {
    job_.options = settled(job.options, job.degrees);
    works_ = measure_passes(job_.options, job_.degrees, job_.passes.empty() ? std::vector{Pass{}} : job_.passes);
  }

  StepPlan run(bool memory) {
    plan_.degrees = job_.degrees;
    plan_.tensor_ranks = memory ? different_tensor_ranks(job_.options, job_.degrees) : 1;
    for (int p = 0; p < job_.degrees.pipeline; ++p)
      for (int t = 0; t < plan_.tensor_ranks; ++t) add_rank(p, t, memory);
    simulate_step();
    count();
    if (memory && !cluster_.fused_attention) keep_unfused();
    return std::move(plan_);
  }

 private:
  void add_rank(int pipeline, int tensor, bool memory) {
    RankPlan& rank = plan_.ranks.emplace_back();
    rank.pipeline = pipeline, rank.tensor = tensor;
    const Mesh mesh = mesh_of(job_.degrees, pipeline, tensor);
    Arena nowhere(Backing::none, kUnlimited);
    Holdings held(job_.options, mesh, nowhere);
    if (plan_.ranks.size() == 1) make_schedule(held);
    if (memory) rank.memory = plan_memory(job_.options, mesh);
    ends_.push_back(measure_end(job_.options, job_.degrees, held, job_.optimizer));
    if (tensor > 0) return;
    stage_ends_.resize(static_cast<std::size_t>(held.partition.stages()));
    for (const StageEnd& end : ends_.back().stages) stage_ends_[static_cast<std::size_t>(end.stage)] = end;
  }

  void make_schedule(Holdings& held) {
    plan_.partition = held.partition;
    plan_.layout = step_layout(job_.options, held, job_.options.microbatches, true, job_.passes);
    if (job_.options.known_schedule) {
      plan_.schedule = *job_.options.known_schedule;
      return;
    }
    plan_.schedule = build_schedule(step_schedule(job_.options, held, plan_.layout, job_.passes), plan_.layout);
    if (job_.passes.empty()) job_.options.known_schedule = std::make_shared<const Schedule>(plan_.schedule);
  }

  void simulate_step() {
    const Times times = times_of({works_, &plan_.partition, stage_ends_}, plan_.layout, setting_, cluster_);
    plan_.timeline = simulate(plan_.schedule, plan_.layout, times);
    plan_.update_s = update_seconds(cluster_);
    plan_.step_s = plan_.timeline.seconds + plan_.update_s;
    const Limits limits = job_.options.schedule == "auto" ? parse_in_flight(job_.options.in_flight, plan_.layout) : Limits{};
    plan_.lower_bound_s = lower_bound(ActionGraph(plan_.layout, times, limits, forwards_in_order(plan_.layout))) + plan_.update_s;
    const auto& busy = plan_.timeline.busy;
    const double computed = std::accumulate(busy.begin(), busy.end(), 0.0) / static_cast<double>(busy.size());
    plan_.bubble = plan_.timeline.seconds > 0 ? 1 - computed / plan_.timeline.seconds : 0;
    plan_.messages_s = plan_.step_s - without_messages();
  }

  double update_seconds(const Cluster& cluster) const {
    double slowest = 0;
    if (cluster.times) return slowest;
    for (const RankEnd& end : ends_) slowest = std::max(slowest, seconds_of(end.update.calls, setting_, cluster));
    return slowest;
  }

  double without_messages() const {
    Cluster free = cluster_;
    free.inside = free.between = {.bandwidth = std::numeric_limits<double>::infinity(), .latency = 0};
    if (free.times) free.times->message = 0;
    const Times times = times_of({works_, &plan_.partition, stage_ends_}, plan_.layout, setting_, free);
    return simulate(plan_.schedule, plan_.layout, times).seconds + update_seconds(free);
  }

  void count() {
    Sums sums(works_, plan_.partition, plan_.layout);
    plan_.pass_flops.assign(static_cast<std::size_t>(plan_.layout.pass_count()), 0);
    for (std::size_t i = 0; i < plan_.ranks.size(); ++i) {
      RankPlan& rank = plan_.ranks[i];
      const Program& program = plan_.schedule[static_cast<std::size_t>(rank.pipeline)];
      Totals all = sums.of(program);
      const double alike = static_cast<double>(job_.degrees.data) * job_.degrees.tensor / plan_.tensor_ranks;
      for (int p = 0; p < plan_.layout.pass_count(); ++p)
        plan_.pass_flops[static_cast<std::size_t>(p)] += alike * sums.flops_of_pass(program, p);
      all += totals_of(ends_[i]);
      rank.flops = all.flops;
      rank.sent = all.sent;
      rank.busy_s = plan_.timeline.busy[static_cast<std::size_t>(rank.pipeline)];
      rank.in_flight = peak_slabs(program, plan_.layout)[static_cast<std::size_t>(Hold::Stash)];
    }
    plan_.model_flops = std::accumulate(plan_.pass_flops.begin(), plan_.pass_flops.end(), 0.0);
  }

  void keep_unfused() {
    for (RankPlan& rank : plan_.ranks) {
      const int layers = most_layers(plan_.schedule[static_cast<std::size_t>(rank.pipeline)], plan_.layout, plan_.partition);
      const double kept = layers * unfused_layer_bytes(job_.options, job_.degrees.tensor);
      rank.memory.peak -= rank.memory.activations;
      rank.memory.activations = static_cast<std::size_t>(kept);
      rank.memory.peak += rank.memory.activations;
    }
  }

  PlannedJob job_;
  const Cluster& cluster_;
  Setting setting_;
  std::vector<ModelWork> works_;      // by pass of the layout
  std::vector<RankEnd> ends_;         // of all ranks with plans of their own
  std::vector<StageEnd> stage_ends_;  // of the first tensor ranks
  StepPlan plan_;
};

}  // namespace

const RankPlan& StepPlan::of(const Coordinates& at) const {
  return ranks[static_cast<std::size_t>(at.pipeline * tensor_ranks + (tensor_ranks > 1 ? at.tensor : 0))];
}

StepPlan plan_time(const PlannedJob& job, const Cluster& cluster) { return Planner(job, cluster).run(false); }
StepPlan plan_step(const PlannedJob& job, const Cluster& cluster) { return Planner(job, cluster).run(true); }

}  // namespace offramp
