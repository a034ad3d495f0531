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

// What completes the stage's weight gradients of a microbatch: W where backwards are split, else B; the last segment, or the whole.
Action last_weight_gradient(int stage, int microbatch, const Layout& layout);
bool is_head(Op op);     // of a head split over the pipeline: T S G H U HT HM HU
bool computes(Op op);    // takes a rank's time: no message, no sum
bool is_message(Op op);  // SA RA SG RG HT HM HU: what passes add around the actions that compute

// The messages that cross a stage's boundary, and where they end.
bool is_send(Op op);
bool is_receive(Op op);
Action receive_of(const Action& send);  // SA2@1 -> RA2@2, SG2@1 -> RG2@0
// What other ranks must have come to before a message can leave: whoever receives it has posted that.
std::vector<Action> partners_of(const Action& send, const Layout& layout);

// Numbers 0 .. size()-1, different for different actions.
class ActionIds {
 public:
  explicit ActionIds(const Layout& layout);
  std::size_t operator()(const Action& action) const;
  std::size_t size() const { return size_; }

 private:
  std::array<std::size_t, kOps> base_{};  // where an operation's numbers begin
  std::array<std::size_t, kOps>
      width_{};  // how many numbers a row of it has; a row: a stage (X, T, U: an exit, Y: a tie, others of heads: both)
  std::size_t ranks_ = 0, microbatches_ = 0, size_ = 0;
};

}  // namespace offramp
