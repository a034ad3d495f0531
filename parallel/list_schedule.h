// List scheduling (Graham, 1966) of a step's actions with their real times: ranks take, whenever they are free, the most urgent of
// what can run. It makes `schedule: auto`, places exits where they cost least in a given order of passes, and weaves heads that are
// split over the pipeline into any schedule.
#pragma once
#include <cstdint>
#include <span>

#include "parallel/action_graph.h"

namespace offramp {

// How urgent what is, largest first, and how long a rank waits for something more urgent than what it could do.
struct Urgency {
  std::vector<double> of;  // by the graph's numbers
  double patience = 0;     // in durations of the less urgent action
};

struct Placed {
  Schedule schedule;          // actions that compute only
  std::vector<double> begin;  // by the graph's numbers
  std::vector<int> turn;      // by the graph's numbers: one order in which all ranks together can run them
  double seconds = 0;
};
// `order`: each rank keeps the order of these actions (its other actions come between them); empty: free.
// Throws std::runtime_error where the order lets nothing run.
Placed list_schedule(const ActionGraph& graph, const Urgency& urgency, const Schedule& order = {});

// No schedule of the graph's actions, within its limits, is shorter. Of each rank alone, whose actions cannot begin before the longest path
// to them and are followed by the longest path from them: what is the least, over all sets of its actions, for the earliest start of
// any, all their work, and the shortest path that follows one (Jackson's preemptive schedule; Carlier, 1982).
double lower_bound(const ActionGraph& graph);

}  // namespace offramp
