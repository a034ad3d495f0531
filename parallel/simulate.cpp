#include "parallel/simulate.h"

#include <algorithm>
#include <map>

#include "parallel/actions.h"
#include "parallel/execution.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

class Simulation {
 public:
  Simulation(const Layout& layout, const Times& times)
      : layout_(layout),
        times_(times),
        ids_(layout),
        end_(ids_.size(), 0),
        free_(static_cast<std::size_t>(layout.ranks), 0),
        reduced_(free_) {
    timeline_.busy.resize(free_.size(), 0);
  }

  // Steps come in an order in which all that a step depends on came before it.
  void run(const Step& step) {
    const Span span = is_transfer(step.action)                ? send(step)
                      : step.action.op == Op::ReduceGradients ? reduce(step)
                      : is_message(step.action.op)            ? post(step)
                                                              : compute(step);
    end_[ids_(span.action)] = span.end;
    timeline_.seconds = std::max(timeline_.seconds, span.end);
    timeline_.spans.push_back(span);
  }

  Timeline result() && { return std::move(timeline_); }

 private:
  double& clock(const Step& step) { return free_[static_cast<std::size_t>(step.rank)]; }

  Span compute(const Step& step) {
    double begin = clock(step);
    for (const Action& needed : dependencies(step.action, layout_)) {
      // Of the rank's own messages only the start matters, and the program's order has seen to that.
      if (is_transfer(needed) && layout_.rank_of(needed.stage) == step.rank) continue;
      begin = std::max(begin, end_[ids_(needed)]);
    }
    const double seconds = times_(step.action);
    timeline_.busy[static_cast<std::size_t>(step.rank)] += seconds;
    clock(step) = begin + seconds;
    return {step.action, step.rank, begin, begin + seconds};
  }

  Span post(const Step& step) { return {step.action, step.rank, clock(step), clock(step)}; }

  // What takes a while on the wire and leaves its rank free; the other messages only post a receive.
  bool is_transfer(const Action& action) const {
    if (is_send(action.op) || action.op == Op::ShareScores) return true;
    if (action.op == Op::ShareFinal) return action.stage == layout_.stages - 1;
    const bool shares = action.op == Op::ShareTap || action.op == Op::SumShares;
    if (!shares) return false;
    const bool root = action.stage == layout_.rank_of(layout_.exits[static_cast<std::size_t>(action.index)].stage);
    return root == (action.op == Op::ShareTap);
  }

  // The message travels when both sides are there and the one before it has passed; the rank goes on.
  Span send(const Step& step) {
    double& wire_free = wires_[{step.action.op, step.action.stage}];
    double begin = std::max(clock(step), wire_free);
    for (const Action& partner : partners_of(step.action, layout_)) begin = std::max(begin, end_[ids_(partner)]);
    wire_free = begin + times_(step.action);
    return {step.action, step.rank, begin, wire_free};
  }

  Span reduce(const Step& step) {
    double& wire_free = reduced_[static_cast<std::size_t>(step.rank)];
    const double begin = std::max(clock(step), wire_free);
    wire_free = begin + times_(step.action);
    return {step.action, step.rank, begin, wire_free};
  }

  const Layout& layout_;
  const Times& times_;
  ActionIds ids_;
  std::vector<double> end_;                     // per action
  std::vector<double> free_;                    // per rank: when its last action ends
  std::vector<double> reduced_;                 // per rank: when its last bucket is summed
  std::map<std::pair<Op, int>, double> wires_;  // per kind of message and sending stage: when its wire is free
  Timeline timeline_;
};

}  // namespace

Timeline simulate(const Schedule& schedule, const Layout& layout, const Times& times) {
  validate(schedule, layout);
  Simulation simulation(layout, times);
  for (const Step& step : execution_order(schedule, layout)) simulation.run(step);
  return std::move(simulation).result();
}

SlabCounts peak_slabs(const Program& program, const Layout& layout) {
  SlabCounts peak{}, held{};
  for (const Action& action : program) {
    const Lifetimes slabs = lifetimes(action, layout);
    for (const Slab& slab : slabs.takes) {
      const auto kind = static_cast<std::size_t>(slab.what);
      peak[kind] = std::max(peak[kind], ++held[kind]);
    }
    for (const Slab& slab : slabs.gives) --held[static_cast<std::size_t>(slab.what)];
  }
  return peak;
}

std::vector<SlabCounts> peak_slabs(const Schedule& schedule, const Layout& layout) {
  std::vector<SlabCounts> peaks;
  for (const Program& program : schedule) peaks.push_back(peak_slabs(program, layout));
  return peaks;
}

}  // namespace offramp
