// One order in which a schedule's programs run side by side, found by running them without tensors. Sends are rendezvous: a send
// ends when its receive was posted, so that a schedule with an order needs no buffer of any transport.
//
//   for (const Step& step : execution_order(schedule, layout)) { ... }   // step.rank runs step.action
#pragma once
#include <stdexcept>

#include "parallel/schedule.h"

namespace offramp {

struct Step {
  Action action;
  int rank = 0;
};

// Needs a schedule whose ranks hold the layout's actions, each once. Throws InvalidSchedule where ranks wait for each other.
std::vector<Step> execution_order(const Schedule& schedule, const Layout& layout);

// For error messages: a line a rank, some actions around a place, that place marked: "rank 1: ... F3@1 >>B3@1<< SG3@1 ...".
struct Mark {
  int rank = 0;
  std::size_t position = 0;  // the program's size: behind its end
};
std::string show(const Schedule& schedule, const std::vector<Mark>& marks);

// What is wrong with a schedule, and where. One line, then the programs around the marks.
struct InvalidSchedule : std::runtime_error {
  std::vector<Mark> marks;        // empty: nowhere in particular
  std::optional<Action> missing;  // an action that no program has
  InvalidSchedule(const std::string& what, std::vector<Mark> where, std::optional<Action> action = {})
      : std::runtime_error(what), marks(std::move(where)), missing(action) {}
};

// Each action of the layout that `wanted` names is there once, on its rank, and no other. Throws InvalidSchedule.
void check_actions(const Schedule& schedule, const Layout& layout, bool (*wanted)(Op));

}  // namespace offramp
