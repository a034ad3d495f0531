// What actions mean in time.
#include <algorithm>
#include <iterator>

#include "parallel/actions.h"
#include "parallel/taps.h"

namespace offramp {
namespace {

bool is_last(int stage, const Layout& layout) { return stage == layout.stages - 1; }

void append_exits(std::vector<Action>& actions, int stage, int microbatch, const Layout& layout) {
  for (int e = 0; e < exit_count(layout); ++e)
    if (exit_at(layout, e).stage == stage && layout.meets(e, microbatch))
      actions.push_back(make_action(end_of_exit(layout), stage, microbatch, e));
}

// The last microbatch up to `last` that an exit learns from, or -1.
int last_that_meets(int exit, int last, const Layout& layout) {
  while (last >= 0 && !layout.meets(exit, last)) --last;
  return last;
}

// What completes a stage's gradients once its last microbatch has gone back: its exits, which run in an order, and of split heads its
// rank's parts.
void append_last_exits(std::vector<Action>& actions, int stage, const Layout& layout) {
  if (const Met last = last_met(stage, layout); last != Met{}) append_exits(actions, stage, last.microbatch, layout);
  for (int e = 0; e < exit_count(layout) && layout.split_heads; ++e)
    actions.push_back(make_action(Op::HeadWeightGrad, layout.rank_of(stage), last_that_meets(e, layout.microbatches - 1, layout), e));
}

// What adds to an exit's own gradients runs in (microbatch, exit) order on a stage: heads that share a tensor then always add up in
// the same order, and the last reader of a tap is known beforehand.
void append_exit_order(std::vector<Action>& needs, const Action& exit, const Layout& layout) {
  const Met before = met_before({exit.microbatch, exit.index}, exit.stage, layout);
  if (before != Met{}) needs.push_back(make_action(exit.op, exit.stage, before.microbatch, before.exit));
}

// What the final head reads leaves the last stage before its own exits run, and is elsewhere before those that it teaches do.
void append_teacher(std::vector<Action>& needs, const Action& exit, const Layout& layout) {
  const int last = layout.stages - 1, teacher = layout.teacher_of(exit.microbatch);
  if (layout.role_of(exit.index, exit.microbatch) != ExitRole::taught) return;
  if (exit.stage == last && teacher != exit.microbatch) needs.push_back(make_action(Op::Forward, last, teacher));
  if (shares_final(last, teacher, layout)) needs.push_back(make_action(Op::ShareFinal, last, teacher));
  if (exit.stage < last) needs.push_back(make_action(Op::ShareFinal, exit.stage, teacher));
}

std::vector<Action> needs_of_tap_reader(const Action& exit, const Layout& layout) {
  std::vector<Action> needs{make_action(Op::Forward, exit.stage, exit.microbatch)};
  append_exit_order(needs, exit, layout);
  // The neighbour waits for the output, nobody waits for the exit: the message leaves first.
  const bool sent = reads_output(exit_at(layout, exit.index), layout) && layout.runs_forward(exit.stage + 1, exit.microbatch);
  if (sent) needs.push_back(make_action(Op::SendActivation, exit.stage, exit.microbatch));
  append_teacher(needs, exit, layout);
  return needs;
}

// Of the microbatches that one exit learns from, the one before.
int before_at_exit(const Action& action, const Layout& layout) { return last_that_meets(action.index, action.microbatch - 1, layout); }

// In the order of microbatches, as what all ranks send each other for an exit is told apart by order alone.
std::vector<Action> needs_of_scores(const Action& scores, const Layout& layout) {
  const int root = layout.rank_of(exit_at(layout, scores.index).stage);
  std::vector<Action> needs{make_action(Op::ShareTap, root, scores.microbatch, scores.index)};
  if (scores.stage != root) needs.push_back(make_action(Op::ShareTap, scores.stage, scores.microbatch, scores.index));
  if (const int before = before_at_exit(scores, layout); before >= 0)
    needs.push_back(make_action(Op::Scores, scores.stage, before, scores.index));
  return needs;
}

std::vector<Action> needs_of_head_backward(const Action& action, const Layout& layout) {
  std::vector<Action> needs;
  for (int r = 0; r < layout.ranks; ++r) needs.push_back(make_action(Op::ShareScores, r, action.microbatch, action.index));
  const int before = before_at_exit(action, layout);  // losses add up in the order of microbatches
  if (before >= 0) needs.push_back(make_action(Op::HeadBackward, action.stage, before, action.index));
  return needs;
}

bool shares_matrix(int a, int b, const Layout& layout) {
  return a == b || (exit_at(layout, a).matrix >= 0 && exit_at(layout, a).matrix == exit_at(layout, b).matrix);
}

// Gradients of one output matrix add up in (microbatch, exit) order.
std::vector<Action> needs_of_head_weight(const Action& action, const Layout& layout) {
  const int e = action.index;
  std::vector<Action> needs{make_action(Op::HeadBackward, action.stage, action.microbatch, e)};
  for (int other = e - 1, m = action.microbatch; m >= 0; --m, other = exit_count(layout) - 1) {
    for (; other >= 0; --other) {
      if (!shares_matrix(other, e, layout) || !layout.meets(other, m)) continue;
      needs.push_back(make_action(Op::HeadWeightGrad, action.stage, m, other));
      return needs;
    }
  }
  return needs;
}

std::vector<Action> needs_of_untap(const Action& untap, const Layout& layout) {
  const int root = layout.rank_of(untap.stage);
  std::vector<Action> needs{make_action(Op::HeadBackward, root, untap.microbatch, untap.index)};
  for (int r = 0; r < layout.ranks && layout.ranks > 1; ++r) needs.push_back(make_action(Op::SumShares, r, untap.microbatch, untap.index));
  append_exit_order(needs, untap, layout);
  return needs;
}

std::vector<Action> needs_of_backward(const Action& backward, const Layout& layout) {
  const int s = backward.stage, m = backward.microbatch;
  if (backward.index > 0) return {make_action(Op::Backward, s, m, backward.index - 1)};
  std::vector<Action> needs{make_action(layout.recomputes(s) ? Op::Recompute : Op::Forward, s, m)};
  append_exits(needs, s, m, layout);
  if (layout.runs_forward(s + 1, m) && !is_last(s, layout)) {
    needs.push_back(make_action(Op::RecvGradient, s, m));
    needs.push_back(make_action(Op::SendGradient, s + 1, m));
  }
  if (const int before = layout.backward_before(s, m); before >= 0) needs.push_back(make_action(Op::Backward, s, before));
  return needs;
}

std::vector<Action> needs_of_weight_gradient(const Action& action, const Layout& layout) {
  const int s = action.stage, m = action.microbatch;
  if (action.index > 0) return {make_action(Op::WeightGrad, s, m, action.index - 1)};
  std::vector<Action> needs{make_action(Op::Backward, s, m)};
  if (const int before = layout.backward_before(s, m); before >= 0) needs.push_back(make_action(Op::WeightGrad, s, before));
  return needs;
}

// A stage sums its ties in their order: whoever waits for the last one of a tensor's parts waits for all of them.
int tie_before(int tie, int stage, const Layout& layout) {
  for (--tie; tie >= 0; --tie)
    if (std::ranges::count(layout.ties[static_cast<std::size_t>(tie)], stage) == 1) return tie;
  return -1;
}

std::vector<Action> needs_of_tie(const Action& tie, const Layout& layout) {
  std::vector<Action> needs;
  const int last = layout.last_microbatch(tie.stage);
  if (layout.learns() && last >= 0) needs.push_back(last_weight_gradient(tie.stage, last, layout));
  append_last_exits(needs, tie.stage, layout);
  const std::vector<int>& holders = layout.ties[static_cast<std::size_t>(tie.index)];
  const auto here = std::ranges::find(holders, tie.stage);
  if (here != holders.begin()) needs.push_back(make_action(Op::ReduceTied, *std::prev(here), -1, tie.index));
  const int before = tie_before(tie.index, tie.stage, layout);
  if (before >= 0) needs.push_back(make_action(Op::ReduceTied, tie.stage, -1, before));
  return needs;
}

std::vector<Action> needs_of_bucket(const Action& reduce, const Layout& layout) {
  const int s = reduce.stage, last = layout.last_microbatch(s);
  const BucketPlace& bucket = layout.buckets[static_cast<std::size_t>(s)][static_cast<std::size_t>(reduce.index)];
  std::vector<Action> needs;
  if (bucket.tie >= 0) {
    needs.push_back(make_action(Op::ReduceTied, s, -1, bucket.tie));
  } else if (layout.learns() && last >= 0) {
    const Op op = layout.split_backward ? Op::WeightGrad : Op::Backward;
    needs.push_back(make_action(op, s, last, layout.segments_of(s) > 1 ? bucket.segment : -1));
  }
  append_last_exits(needs, s, layout);
  return needs;
}

}  // namespace

std::vector<Action> dependencies(const Action& action, const Layout& layout) {
  const int s = action.stage, m = action.microbatch, e = action.index;
  switch (action.op) {
    case Op::Forward:
      if (s == 0) return {};
      return {make_action(Op::RecvActivation, s, m), make_action(Op::SendActivation, s - 1, m)};
    case Op::Recompute:
    case Op::SendActivation:
      return {make_action(Op::Forward, s, m)};
    case Op::Exit:
    case Op::Tap:
      return needs_of_tap_reader(action, layout);
    case Op::Backward:
      return needs_of_backward(action, layout);
    case Op::WeightGrad:
      return needs_of_weight_gradient(action, layout);
    case Op::Scores:
      return needs_of_scores(action, layout);
    case Op::HeadBackward:
      return needs_of_head_backward(action, layout);
    case Op::HeadWeightGrad:
      return needs_of_head_weight(action, layout);
    case Op::Untap:
      return needs_of_untap(action, layout);
    case Op::SendGradient:
      return {last_backward(s, m, layout)};
    case Op::RecvActivation:
    case Op::RecvGradient:
      return {};
    case Op::ShareTap:
      if (const int stage = exit_at(layout, e).stage; s == layout.rank_of(stage)) return {make_action(Op::Tap, stage, m, e)};
      return {};
    case Op::ShareScores:
      return {make_action(Op::Scores, s, m, e)};
    case Op::ShareFinal:
      if (is_last(s, layout)) return {make_action(Op::Forward, s, m)};
      return {};
    case Op::SumShares:
      if (s == layout.rank_of(exit_at(layout, e).stage)) return {};
      return {make_action(Op::HeadBackward, s, m, e)};
    case Op::ReduceTied:
      return needs_of_tie(action, layout);
    case Op::ReduceGradients:
      return needs_of_bucket(action, layout);
  }
  return {};
}

}  // namespace offramp
