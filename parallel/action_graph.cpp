#include "parallel/action_graph.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "parallel/taps.h"
#include "tensor/check.h"

namespace offramp {
namespace {

Layout without_reductions(Layout layout) {
  layout.segments.clear();
  layout.buckets.clear();
  layout.ties.clear();
  return layout;
}

}  // namespace

bool forwards_in_order(const Layout& layout) {
  const auto ends_apart = [&](const PassPlace& pass) { return pass.last != layout.passes.front().last; };
  return layout.reach.empty() && std::ranges::none_of(layout.passes, ends_apart);
}

ActionGraph::ActionGraph(const Layout& layout, const Times& times, const Limits& limits, bool forwards_in_order)
    : layout_(without_reductions(layout)), ids_(layout_), numbers_(ids_.size(), -1) {
  for (const Action& action : actions_of(layout_)) {
    if (is_message(action.op)) continue;
    numbers_[ids_(action)] = static_cast<int>(nodes_.size());
    nodes_.push_back({action, layout_.rank_of(action.stage), times(action), {}, {}});
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) add_edges(static_cast<int>(i), nodes_[i].action, 0, times);
  add_order(forwards_in_order);
  add_limits(limits);
  measure_paths();
}

// A channel keeps its order, so what feeds one runs in the order of microbatches (backwards do so anyway).
void ActionGraph::add_order(bool of_forwards) {
  std::map<std::tuple<Op, int, int>, int> last;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {  // of a stage one microbatch after the other
    const Action& a = nodes_[i].action;
    if (!(a.op == Op::Forward && of_forwards) && a.op != Op::Scores) continue;
    const auto [before, first] = last.try_emplace({a.op, a.stage, a.index}, static_cast<int>(i));
    if (!first) add_edge(before->second, static_cast<int>(i), 0);
    before->second = static_cast<int>(i);
  }
}

void ActionGraph::add_limits(const Limits& limits) {
  const auto in_order = [&](auto exists, auto make) {
    std::vector<Action> actions;
    for (int m = 0; m < layout_.microbatches; ++m)
      if (exists(m)) actions.push_back(make(m));
    return actions;
  };
  for (int s = 0; s < layout_.stages && layout_.learns() && !limits.in_flight.empty(); ++s) {
    const auto goes_back = [&](int m) { return layout_.runs_backward(s, m); };
    add_limit(in_order(goes_back, [&](int m) { return make_action(Op::Forward, s, m); }),
              in_order(goes_back, [&](int m) { return last_weight_gradient(s, m, layout_); }),
              limits.in_flight[static_cast<std::size_t>(s)]);
  }
  const Op ends = layout_.backward ? Op::HeadWeightGrad : Op::HeadBackward;
  for (int e = 0; e < exit_count(layout_) && layout_.split_heads && limits.head_slices > 0; ++e) {
    for (int r = 0; r < layout_.ranks; ++r) {
      const auto runs = [&](int m) { return exists(make_action(Op::Scores, r, m, e), layout_); };
      add_limit(in_order(runs, [&](int m) { return make_action(Op::Scores, r, m, e); }),
                in_order(runs, [&](int m) { return make_action(ends, r, m, e); }), limits.head_slices);
    }
  }
}

void ActionGraph::add_limit(const std::vector<Action>& opening, const std::vector<Action>& closing, int most) {
  for (std::size_t k = static_cast<std::size_t>(most); k < opening.size(); ++k)
    add_edge(number(closing[k - static_cast<std::size_t>(most)]), number(opening[k]), 0);
}

void ActionGraph::add_edge(int from, int to, double delay) {
  OFFRAMP_CHECK(from >= 0 && to >= 0, "[action_graph] an edge of an action that the layout does not have");
  nodes_[static_cast<std::size_t>(to)].needs.push_back({from, delay});
  nodes_[static_cast<std::size_t>(from)].followers.push_back(to);
}

// A message stands between two actions that compute; what it waits for, whoever receives it waits for.
void ActionGraph::add_edges(int node, const Action& of, double delay, const Times& times) {
  for (const Action& needed : dependencies(of, layout_)) {
    if (is_message(needed.op)) {
      const bool own = layout_.rank_of(needed.stage) == nodes_[static_cast<std::size_t>(node)].rank;
      add_edges(node, needed, delay + (own ? 0 : times(needed)), times);
      continue;
    }
    add_edge(number(needed), node, delay);
  }
}

void ActionGraph::measure_paths() {
  std::vector<std::size_t> missing;
  std::vector<int> order;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    missing.push_back(nodes_[i].needs.size());
    if (missing.back() == 0) order.push_back(static_cast<int>(i));
  }
  for (std::size_t k = 0; k < order.size(); ++k) {
    Node& node = nodes_[static_cast<std::size_t>(order[k])];
    for (const Edge& edge : node.needs) {
      const Node& from = nodes_[static_cast<std::size_t>(edge.from)];
      node.earliest = std::max(node.earliest, from.earliest + from.seconds + edge.delay);
    }
    for (int follower : node.followers)
      if (--missing[static_cast<std::size_t>(follower)] == 0) order.push_back(follower);
  }
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    Node& node = nodes_[static_cast<std::size_t>(*it)];
    node.tail += node.seconds;
    for (const Edge& edge : node.needs) {
      double& tail = nodes_[static_cast<std::size_t>(edge.from)].tail;
      tail = std::max(tail, node.tail + edge.delay);
    }
  }
}

ActionGraph ActionGraph::reversed() const {
  ActionGraph graph = *this;
  for (Node& node : graph.nodes_) node.needs.clear(), node.followers.clear(), node.earliest = node.tail = 0;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    for (const Edge& edge : nodes_[i].needs) {
      graph.nodes_[static_cast<std::size_t>(edge.from)].needs.push_back({static_cast<int>(i), edge.delay});
      graph.nodes_[i].followers.push_back(edge.from);
    }
  }
  graph.measure_paths();
  return graph;
}

double ActionGraph::longest_path() const {
  double longest = 0;
  for (const Node& node : nodes_) longest = std::max(longest, node.earliest + node.tail);
  return longest;
}

}  // namespace offramp
