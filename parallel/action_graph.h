// The actions that compute, as a graph: what each waits for, with the messages between as delays.
#pragma once
#include "parallel/actions.h"
#include "parallel/limits.h"
#include "parallel/simulate.h"

namespace offramp {

// Whether named schedules run a stage's forwards in the order of microbatches: unless some turn round before others.
bool forwards_in_order(const Layout& layout);

class ActionGraph {
 public:
  struct Edge {
    int from = 0;
    double delay = 0;  // time on the wire
  };
  struct Node {
    Action action;
    int rank = 0;
    double seconds = 0;
    std::vector<Edge> needs;
    std::vector<int> followers;
    double earliest = 0;  // longest path to its start
    double tail = 0;      // longest path from its start to the end, itself included
  };
  // Whole backwards only: the layout's segments, ties and buckets are left out. What may be kept at once are edges too: as forwards, and
  // what ends them, run in the order of microbatches, the one waits for what ended so many before it.
  // `forwards_in_order`: of the microbatches of a stage; otherwise a given order of them says what each channel carries.
  ActionGraph(const Layout& layout, const Times& times, const Limits& limits = {}, bool forwards_in_order = true);
  const std::vector<Node>& nodes() const { return nodes_; }
  const Layout& layout() const { return layout_; }
  int number(const Action& action) const { return numbers_[ids_(action)]; }
  double longest_path() const;
  // Time runs backwards: whoever was waited for waits.
  ActionGraph reversed() const;

 private:
  void add_edges(int node, const Action& of, double delay, const Times& times);
  void add_edge(int from, int to, double delay);
  void add_order(bool of_forwards);
  void add_limits(const Limits& limits);
  void add_limit(const std::vector<Action>& opening, const std::vector<Action>& closing, int most);
  void measure_paths();

  Layout layout_;
  ActionIds ids_;
  std::vector<int> numbers_;
  std::vector<Node> nodes_;
};

}  // namespace offramp
