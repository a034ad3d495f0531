#include "parallel/automatic.h"

#include <algorithm>
#include <stdexcept>

#include "parallel/actions.h"

namespace offramp {
namespace {

Times times_of(const ScheduleOptions& options) { return options.times ? options.times : Times(nominal_times); }

void set(Urgency& urgency, std::initializer_list<Op> ops, double value) {
  for (Op op : ops) urgency.of_op[static_cast<std::size_t>(op)] = value;
}

// What others wait for first: heads' parts, then backwards, then forwards; what only its own rank waits for fills the gaps.
Urgency classes(double exits, double forward, double weights) {
  Urgency urgency;
  set(urgency, {Op::Untap, Op::HeadBackward}, 6);
  set(urgency, {Op::Tap, Op::Scores}, 5);
  set(urgency, {Op::Backward, Op::Recompute}, 4);
  set(urgency, {Op::Exit}, exits);
  set(urgency, {Op::Forward}, forward);
  set(urgency, {Op::WeightGrad, Op::HeadWeightGrad}, weights);
  return urgency;
}

// Rules to try: fixed classes and longest paths, patient or not, then neighbours of them drawn by chance.
std::vector<Urgency> candidates(int trials) {
  std::vector<Urgency> all;
  for (double patience : {0.0, 0.3, 0.6}) {
    for (double exits : {4.5, 3.5, 2.5, 1.5}) {
      Urgency urgency = classes(exits, 3, 1);
      urgency.patience = patience;
      all.push_back(urgency);
      urgency = classes(exits, 2, 1);
      urgency.tail = 2;
      urgency.patience = patience;
      all.push_back(urgency);
    }
    Urgency paths;
    paths.tail = 1;
    paths.patience = patience;
    all.push_back(paths);
    set(paths, {Op::WeightGrad, Op::HeadWeightGrad}, -1);
    all.push_back(paths);
  }
  const std::size_t rules = all.size();
  for (int k = 0; k < trials; ++k) {
    Urgency urgency = all[static_cast<std::size_t>(k) % rules];
    urgency.noise = 0.02 * (1 + k / static_cast<int>(rules)) * (urgency.tail > 0 ? urgency.tail : 1);
    urgency.seed = static_cast<std::uint64_t>(k) + 1;
    all.push_back(urgency);
  }
  return all;
}

// Of the tried ones the shortest; of equal ones the first.
Placed shortest(const ActionGraph& graph, const Limits& limits, const Schedule& order, int trials) {
  const double bound = lower_bound(graph);
  Placed best;
  for (const Urgency& urgency : candidates(trials)) {
    Placed placed = list_schedule(graph, limits, urgency, order);
    if (best.schedule.empty() || placed.seconds < best.seconds) best = std::move(placed);
    if (best.seconds <= bound * (1 + 1e-9)) break;
  }
  return best;
}

}  // namespace

Schedule woven_schedule(const ScheduleOptions& options, const Layout& layout, const Schedule& passes) {
  const ActionGraph graph(layout, times_of(options));
  return add_communication(shortest(graph, options.limits, passes, 0), layout, graph);
}

Schedule automatic_schedule(const ScheduleOptions& options, const Layout& layout) {
  const Times times = times_of(options);
  const ActionGraph graph(layout, times);
  return add_communication(shortest(graph, options.limits, {}, options.trials), layout, graph);
}

}  // namespace offramp
