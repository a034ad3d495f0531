#include "parallel/list_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <stdexcept>
#include <tuple>

#include "parallel/execution.h"

namespace offramp {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

class ListScheduler {
 public:
  ListScheduler(const ActionGraph& graph, const Urgency& urgency, const Schedule& order)
      : graph_(graph), layout_(graph.layout()), urgency_(urgency.of), patience_(urgency.patience), order_(order), next_(order.size(), 0) {
    free_.assign(at(layout_.ranks), 0);
    ready_.resize(at(layout_.ranks));
    choices_.resize(at(layout_.ranks));
    changed_.assign(at(layout_.ranks), true);
    placed_.schedule.resize(at(layout_.ranks));
    fixed_.assign(graph.nodes().size(), false);
    done_.assign(graph.nodes().size(), false);
    for (const Program& program : order)
      for (const Action& action : program) fixed_[at(graph.number(action))] = true;
    for (std::size_t i = 0; i < graph.nodes().size(); ++i) missing_.push_back(graph.nodes()[i].needs.size());
    ready_at_.assign(missing_.size(), 0);
    end_.assign(missing_.size(), 0);
    for (std::size_t i = 0; i < missing_.size(); ++i)
      if (missing_[i] == 0) ready_[at(graph.nodes()[i].rank)].push_back(static_cast<int>(i));
  }

  Placed run() {
    placed_.begin.assign(missing_.size(), 0);
    placed_.turn.assign(missing_.size(), 0);
    for (std::size_t left = missing_.size(); left > 0; --left) {
      const Choice choice = next();
      if (choice.node < 0) report_stuck();
      place(choice);
      placed_.begin[at(choice.node)] = choice.begin;
      placed_.turn[at(choice.node)] = static_cast<int>(missing_.size() - left);
    }
    return std::move(placed_);
  }

 private:
  struct Choice {
    int node = -1;
    double begin = std::numeric_limits<double>::infinity();
  };
  const ActionGraph::Node& node(int n) const { return graph_.nodes()[at(n)]; }

  // Whether the given order lets it run.
  bool may_run(int n) const { return !fixed_[at(n)] || order_[at(node(n).rank)][next_[at(node(n).rank)]] == node(n).action; }

  // Equal urgency: the lower microbatch, then the lower stage.
  bool more_urgent(int a, int b) const {
    if (b < 0) return true;
    if (urgency_[at(a)] != urgency_[at(b)]) return urgency_[at(a)] > urgency_[at(b)];
    const Action &x = node(a).action, &y = node(b).action;
    return std::tie(x.microbatch, x.stage, x.index) < std::tie(y.microbatch, y.stage, y.index);
  }

  Choice choice_of(int rank) const {
    double begin = std::numeric_limits<double>::infinity();
    for (int n : ready_[at(rank)])
      if (may_run(n)) begin = std::min(begin, std::max(free_[at(rank)], ready_at_[at(n)]));
    Choice best{-1, begin};
    for (int n : ready_[at(rank)])
      if (ready_at_[at(n)] <= begin && may_run(n) && more_urgent(n, best.node)) best.node = n;
    if (best.node < 0 || patience_ <= 0) return best;
    const double until = begin + patience_ * node(best.node).seconds;
    for (int n : ready_[at(rank)])
      if (ready_at_[at(n)] > begin && ready_at_[at(n)] <= until && may_run(n) && urgency_[at(n)] > urgency_[at(best.node)])
        best = {n, ready_at_[at(n)]};
    return best;
  }

  Choice next() {
    Choice first;
    for (int r = 0; r < layout_.ranks; ++r) {
      if (changed_[at(r)]) choices_[at(r)] = choice_of(r);
      changed_[at(r)] = false;
      const Choice& choice = choices_[at(r)];
      if (choice.node >= 0 && choice.begin < first.begin) first = choice;
    }
    return first;
  }

  void place(const Choice choice) {
    const ActionGraph::Node& n = node(choice.node);
    const double end = choice.begin + n.seconds;
    done_[at(choice.node)] = true;
    free_[at(n.rank)] = end_[at(choice.node)] = end;
    changed_[at(n.rank)] = true;
    placed_.seconds = std::max(placed_.seconds, end);
    placed_.schedule[at(n.rank)].push_back(n.action);
    std::erase(ready_[at(n.rank)], choice.node);
    if (fixed_[at(choice.node)]) ++next_[at(n.rank)];
    for (int f : n.followers) {
      if (--missing_[at(f)] > 0) continue;
      for (const ActionGraph::Edge& edge : node(f).needs) ready_at_[at(f)] = std::max(ready_at_[at(f)], end_[at(edge.from)] + edge.delay);
      ready_[at(node(f).rank)].push_back(f);
      changed_[at(node(f).rank)] = true;
    }
  }

  // What keeps an action from running: one that it needs, or that comes before it in the given order.
  int awaited(int n) const {
    for (const ActionGraph::Edge& edge : node(n).needs)
      if (!done_[at(edge.from)]) return edge.from;
    const std::size_t rank = at(node(n).rank);
    if (!fixed_[at(n)] || order_[rank][next_[rank]] == node(n).action) return -1;
    return graph_.number(order_[rank][next_[rank]]);
  }

  // Following what is waited for ends in a circle, and whatever stands first in its rank's order there is a cause.
  [[noreturn]] void report_stuck() const {
    int n = 0;
    while (done_[at(n)]) ++n;
    for (std::size_t step = 0; step < 2 * missing_.size() && n >= 0; ++step) {
      const int needed = awaited(n);
      const std::size_t rank = at(node(n).rank);
      const bool first = fixed_[at(n)] && order_[rank][next_[rank]] == node(n).action;
      if (first && needed >= 0 && step >= missing_.size())
        throw InvalidSchedule(fmt::format("rank {} is stuck at {}: it waits for {}, which comes later", rank, to_text(node(n).action),
                                          to_text(node(needed).action)),
                              {{node(n).rank, next_[rank]}});
      n = needed;
    }
    throw std::runtime_error("nothing may run any more");
  }

  const ActionGraph& graph_;
  const Layout& layout_;
  const std::vector<double>& urgency_;
  double patience_;
  const Schedule& order_;
  std::vector<std::size_t> next_;  // per rank, of its given order
  std::vector<bool> fixed_, done_;
  std::vector<std::size_t> missing_;
  std::vector<double> ready_at_, end_, free_;
  std::vector<std::vector<int>> ready_;
  std::vector<Choice> choices_;  // per rank; to be made again where something changed_
  std::vector<bool> changed_;
  Placed placed_;
};

}  // namespace

Placed list_schedule(const ActionGraph& graph, const Urgency& urgency, const Schedule& order) {
  return ListScheduler(graph, urgency, order).run();
}

namespace {

// Always the one that the longest path follows of those that may begin; nothing that begins later changes what is left of it.
double jackson(std::vector<const ActionGraph::Node*> jobs) {
  std::ranges::sort(jobs, {}, &ActionGraph::Node::earliest);
  const auto after = [](const ActionGraph::Node* node) { return node->tail - node->seconds; };
  std::priority_queue<std::pair<double, double>> waiting;  // path that follows, work left
  double now = 0, bound = 0;
  for (std::size_t next = 0; next < jobs.size() || !waiting.empty();) {
    if (waiting.empty()) now = std::max(now, jobs[next]->earliest);
    for (; next < jobs.size() && jobs[next]->earliest <= now; ++next) waiting.push({after(jobs[next]), jobs[next]->seconds});
    auto [follows, left] = waiting.top();
    waiting.pop();
    const bool ends = next == jobs.size() || now + left <= jobs[next]->earliest;
    const double until = ends ? now + left : jobs[next]->earliest;
    if (ends)
      bound = std::max(bound, until + follows);
    else
      waiting.push({follows, left - (until - now)});
    now = until;
  }
  return bound;
}

}  // namespace

double lower_bound(const ActionGraph& graph) {
  std::vector<std::vector<const ActionGraph::Node*>> ranks(at(graph.layout().ranks));
  for (const ActionGraph::Node& node : graph.nodes()) ranks[at(node.rank)].push_back(&node);
  double bound = graph.longest_path();
  for (auto& jobs : ranks) bound = std::max(bound, jackson(std::move(jobs)));
  return bound;
}

}  // namespace offramp
