// The set of actions that a layout has, for whoever must go through all of them or keep something for each.
//
//   check_layout(layout);                       // throws std::invalid_argument: a layout that cannot be
//   for (const Action& action : actions_of(layout)) { ... }
//   ActionIds ids(layout);
//   std::vector<double> begin(ids.size());      // one entry an action, and some that no action uses
//   begin[ids(action)] = 0;                     // only of actions for which exists() holds
#pragma once
#include <cstddef>
#include <vector>

#include "parallel/schedule.h"

namespace offramp {

// Throws std::invalid_argument that names the values which contradict each other.
void check_layout(const Layout& layout);

bool exists(const Action& action, const Layout& layout);
std::vector<Action> actions_of(const Layout& layout);

Action make_action(Op op, int stage, int microbatch, int index = -1);
Action first_backward(int stage, int microbatch, const Layout& layout);  // the first segment, or the whole
Action last_backward(int stage, int microbatch, const Layout& layout);   // the last segment, or the whole

// The messages that cross a stage's boundary, and where they end.
bool is_send(Op op);
bool is_receive(Op op);
Action receive_of(const Action& send);  // SA2@1 -> RA2@2, SG2@1 -> RG2@0

// Numbers 0 .. size()-1, different for different actions.
class ActionIds {
 public:
  explicit ActionIds(const Layout& layout);
  std::size_t operator()(const Action& action) const;
  std::size_t size() const { return size_; }

 private:
  std::array<std::size_t, 9> base_{};   // where an operation's numbers begin
  std::array<std::size_t, 9> width_{};  // how many numbers a stage of it has (X: an exit, Y: a tie)
  std::size_t microbatches_ = 0, size_ = 0;
};

}  // namespace offramp
