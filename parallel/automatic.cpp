#include "parallel/automatic.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <tuple>

#include "parallel/actions.h"

namespace offramp {
namespace {

Times times_of(const ScheduleOptions& options) { return options.times ? options.times : Times(nominal_times); }

// By op, and by the longest path from an action to the end of the step, as a fraction of the longest of all.
struct Rule {
  std::array<double, kOps> of_op{};
  double tail = 0, patience = 0;
};

void set(Rule& rule, std::initializer_list<Op> ops, double value) {
  for (Op op : ops) rule.of_op[static_cast<std::size_t>(op)] = value;
}

// What others wait for first: heads' parts, then backwards, then forwards; what only its own rank waits for fills the gaps.
Rule classes(double exits, double forward, double tail) {
  Rule rule;
  set(rule, {Op::Untap, Op::HeadBackward}, 6);
  set(rule, {Op::Tap, Op::Scores}, 5);
  set(rule, {Op::Backward, Op::Recompute}, 4);
  set(rule, {Op::Exit}, exits);
  set(rule, {Op::Forward}, forward);
  set(rule, {Op::WeightGrad, Op::HeadWeightGrad}, 1);
  rule.tail = tail;
  return rule;
}

std::vector<Rule> rules() {
  std::vector<Rule> all;
  for (double exits : {4.5, 3.5, 2.5, 1.5}) all.insert(all.end(), {classes(exits, 3, 0), classes(exits, 2, 2)});
  all.push_back({.of_op = {}, .tail = 1});
  all.push_back(all.back());
  set(all.back(), {Op::WeightGrad, Op::HeadWeightGrad}, -1);
  const std::size_t impatient = all.size();
  for (double patience : {0.3, 0.6}) {
    for (std::size_t i = 0; i < impatient; ++i) {
      all.push_back(all[i]);
      all.back().patience = patience;
    }
  }
  return all;
}

Urgency urgency_of(const Rule& rule, const ActionGraph& graph) {
  Urgency urgency{.of = {}, .patience = rule.patience};
  const double longest = std::max(graph.longest_path(), 1e-300);
  for (const ActionGraph::Node& node : graph.nodes())
    urgency.of.push_back(rule.of_op[static_cast<std::size_t>(node.action.op)] + rule.tail * node.tail / longest);
  return urgency;
}

// Under a limit of bytes: how many microbatches may be in flight, from the most that could fit down to one.
std::vector<Limits> ladder(const Limits& limits, const MemoryLimit& memory, const Layout& layout) {
  constexpr int kRungs = 4;
  std::vector<Limits> rungs{limits};
  if (!memory) return rungs;
  const std::vector<int> most = memory.most_in_flight(layout);
  for (int k = 0; k < kRungs; ++k) {
    Limits& rung = k == 0 ? rungs.front() : rungs.emplace_back(rungs.front());
    rung.in_flight.resize(most.size(), layout.microbatches);
    for (std::size_t s = 0; s < most.size(); ++s) {
      const int n = k == 0 ? std::min(most[s], rung.in_flight[s]) : 1 + (rungs.front().in_flight[s] - 1) * (kRungs - 1 - k) / (kRungs - 1);
      rung.in_flight[s] = n;
    }
  }
  return rungs;
}

// What the search may place in all, so that it ends in about a second.
constexpr int kMostPlaced = 6'000'000;

// The shortest schedule of some rules, then of neighbours of the best so far: what it began earlier is more urgent, but for some
// actions of a stretch of time, give or take a random time. Of equally long ones that whose actions begin earlier. Before all that,
// the one whose fullest rank is least above the limit of bytes.
class Search {
 public:
  Search(const Layout& layout, const Times& times, const std::vector<Limits>& rungs, const MemoryLimit& memory,
         bool forwards_in_order = true)
      : layout_(layout), memory_(memory) {
    for (const Limits& limits : rungs) ladder_.emplace_back(layout, times, limits, forwards_in_order);
    for (const ActionGraph& graph : ladder_) reversed_.push_back(graph.reversed());
    bound_ = lower_bound(ladder_.front());
  }

  // The rules alone, with the passes in this order.
  void try_order(const Schedule& order) {
    for (const Rule& rule : rules()) attempt(urgency_of(rule, graph()), 0, order);
  }
  // With messages.
  Schedule best() const { return add_communication(best_, layout_, graph()); }

  void run(int trials) {
    trials = std::min<int>(trials, kMostPlaced / static_cast<int>(graph().nodes().size() + 1));
    for (std::size_t rung = 0; rung < ladder_.size(); ++rung)
      for (const Rule& rule : rules()) attempt(urgency_of(rule, ladder_[rung]), rung);
    for (int k = 0; k < trials && !done(); ++k) {
      const std::size_t rung = k % 3 == 2 && rung_ > 0 ? rung_ - 1 : rung_;
      attempt(k % 4 == 0 ? neighbour(k) : from_the_end(neighbour(k), rung), rung);
    }
  }

 private:
  const ActionGraph& graph() const { return ladder_.front(); }
  bool done() const { return excess_ == 0 && best_.seconds <= bound_ * (1 + 1e-9); }

  void attempt(const Urgency& urgency, std::size_t rung, const Schedule& order = {}) {
    const bool first = best_.schedule.empty();
    if (done() && !first) return;
    Placed placed = list_schedule(ladder_[rung], urgency, order);
    const double begins = std::accumulate(placed.begin.begin(), placed.begin.end(), 0.0);
    const std::tuple found(placed.seconds, begins), best(best_.seconds, begins_);
    if (!first && excess_ == 0 && found > best) return;
    const std::size_t excess = excess_of(placed);
    if (!first && std::tuple(excess, found) > std::tuple(excess_, best)) return;
    best_ = std::move(placed);
    begins_ = begins, excess_ = excess, rung_ = rung;
    patience_ = urgency.patience;
  }

  std::size_t excess_of(const Placed& placed) const {
    if (!memory_) return 0;
    return memory_.excess(add_communication(placed, graph().layout(), graph()), graph().layout()).bytes;
  }

  double draw() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  // Pipelines lose most at their ends: there most of the stretches lie.
  Urgency neighbour(int k) {
    constexpr std::array kPatience = {0.0, 0.3, 0.6};
    Urgency urgency{.of = {}, .patience = k % 4 != 3 ? patience_ : kPatience[static_cast<std::size_t>(k / 4) % 3]};
    const double width = (0.02 + 0.2 * draw() * draw()) * best_.seconds, where = draw();
    const double from = where < 0.4 ? 0 : where < 0.8 ? best_.seconds - width : draw() * (best_.seconds - width);
    const double spread = width * draw(), share = draw() * draw();
    for (double begin : best_.begin) {
      const bool moves = begin >= from && begin <= from + width && draw() < share;
      urgency.of.push_back((moves ? spread * (2 * draw() - 1) : 0) - begin);
    }
    return urgency;
  }

  // A schedule made from the step's end towards its beginning, everything as late as can be, in which what ends last in the neighbour goes
  // first; then what begins first in that one is most urgent (Valls et al., 2005: justification).
  Urgency from_the_end(Urgency neighbour, std::size_t rung) const {
    for (double& urgency : neighbour.of) urgency = -urgency;
    const Placed late = list_schedule(reversed_[rung], neighbour);
    for (std::size_t i = 0; i < late.begin.size(); ++i) neighbour.of[i] = late.begin[i] + graph().nodes()[i].seconds;
    return neighbour;
  }

  const Layout& layout_;
  const MemoryLimit& memory_;
  std::vector<ActionGraph> ladder_, reversed_;  // by what may be kept, the most first; numbered alike
  double bound_, patience_ = 0, begins_ = 0;
  std::size_t excess_ = 0, rung_ = 0;
  std::mt19937_64 random_{1};
  Placed best_;
};

bool keeps_within(const Schedule& passes, const Layout& layout, const Limits& limits) {
  if (limits.in_flight.empty()) return true;
  const Op completes = layout.split_backward ? Op::WeightGrad : Op::Backward;
  std::vector<int> held(static_cast<std::size_t>(layout.stages), 0);
  for (const Program& program : passes) {
    for (const Action& action : program) {
      const auto stage = static_cast<std::size_t>(action.stage);
      if (action.op == Op::Forward && ++held[stage] > limits.in_flight[stage]) return false;
      if (action.op == completes) --held[stage];
    }
  }
  return true;
}

// What the named schedules make of this layout, those that can serve it.
std::vector<Schedule> named_passes(const Layout& layout) {
  std::vector<Schedule> all;
  if (!layout.reach.empty()) return all;
  const int chunks = layout.stages / layout.ranks;
  all.push_back(place_weight_gradients(gpipe(layout), layout));
  if (layout.stages == layout.ranks) all.push_back(place_weight_gradients(one_f_one_b(layout), layout));
  if (layout.stages == layout.ranks && layout.split_backward) all.push_back(zero_bubble(layout));
  if (chunks > 1 && layout.stages % layout.ranks == 0 && layout.microbatches % layout.ranks == 0)
    all.push_back(place_weight_gradients(interleaved(layout), layout));
  for (Schedule& schedule : all) schedule = place_recompute(std::move(schedule), layout);
  return all;
}

}  // namespace

// What is in a given order may keep more than the limits of auto: only those of heads' parts hold. Without a backward no limit keeps
// ranks from running ahead with more and more memory: an earlier microbatch goes first in all.
Schedule woven_schedule(const ScheduleOptions& options, const Layout& layout, const std::vector<Schedule>& orders) {
  const Limits limits{.in_flight = {}, .head_slices = options.limits.head_slices};
  if (!layout.backward) {
    const ActionGraph graph(layout, times_of(options), limits);
    const Urgency equal{.of = std::vector<double>(graph.nodes().size(), 0)};
    return add_communication(list_schedule(graph, equal, orders.front()), layout, graph);
  }
  Search search(layout, times_of(options), {limits}, options.memory, forwards_in_order(layout));
  const bool without_exits = !layout.split_heads && options.placement == Placement::automatic;
  for (const Schedule& passes : orders) {
    search.try_order(passes);
    if (options.memory && without_exits)  // what keeps least
      search.try_order(place_exits(passes, layout, Placement::before_backward));
  }
  return search.best();
}

Schedule automatic_schedule(const ScheduleOptions& options, const Layout& layout) {
  const std::vector<Limits> rungs = ladder(options.limits, options.memory, layout);
  Search search(layout, times_of(options), rungs, options.memory);
  for (const Schedule& passes : named_passes(layout))
    if (keeps_within(passes, layout, rungs.front())) search.try_order(passes);
  search.run(options.trials);
  return search.best();
}

}  // namespace offramp
