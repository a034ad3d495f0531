#include "parallel/actions.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "parallel/taps.h"

namespace offramp {
namespace {

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw std::invalid_argument("layout: " + fmt::format(text, std::forward<Args>(args)...));
}

std::size_t size_of(int n) { return static_cast<std::size_t>(n); }

void check_sizes(const Layout& layout) {
  constexpr int kMost = std::numeric_limits<std::int16_t>::max();  // an Action's fields
  for (int n : {layout.ranks, layout.stages, layout.microbatches, static_cast<int>(layout.exits.size()) + 1}) {
    if (n < 1 || n > kMost) {
      refuse("{} ranks, {} stages, {} microbatches and {} exits must be 1 .. {} each", layout.ranks, layout.stages, layout.microbatches,
             layout.exits.size(), kMost);
    }
  }
  if (layout.stages < layout.ranks) refuse("{} stages cannot feed {} ranks", layout.stages, layout.ranks);
  if (layout.ranks == 1 && layout.stages > 1) refuse("{} stages on one rank: neighbouring stages need different ranks", layout.stages);
}

void check_reach(const Layout& layout) {
  if (!layout.recompute.empty() && layout.recompute.size() != size_of(layout.stages))
    refuse("recompute of {} stages of {}", layout.recompute.size(), layout.stages);
  if (layout.reach.empty()) return;
  if (layout.reach.size() != size_of(layout.microbatches))
    refuse("the reach of {} microbatches of {}", layout.reach.size(), layout.microbatches);
  for (const Reach& reach : layout.reach)
    if (reach.first < 0 || reach.first > reach.last || reach.last >= layout.stages)
      refuse("a microbatch from stage {} to stage {} of {}", reach.first, reach.last, layout.stages);
  for (int s = 0; s < layout.stages; ++s)
    if (layout.backward && layout.last_microbatch(s) < 0) refuse("no microbatch goes back on stage {}", s);
}

void check_pass(std::size_t number, const Layout& layout) {
  const PassPlace& pass = layout.passes[number];
  if (pass.exits.size() != layout.exits.size()) refuse("pass {} knows of {} exits of {}", number, pass.exits.size(), layout.exits.size());
  if (pass.last < 0 || pass.last >= layout.stages) refuse("pass {} up to stage {} of {}", number, pass.last, layout.stages);
  const bool teaches =
      std::ranges::any_of(layout.passes, [&](const PassPlace& other) { return other.teacher == static_cast<int>(number); });
  bool ends = teaches && pass.last == layout.stages - 1, taught = false;
  for (std::size_t e = 0; e < pass.exits.size(); ++e) {
    if (pass.exits[e] == ExitRole::absent) continue;
    if (layout.exits[e].stage > pass.last || !pass.back) refuse("pass {} ends before exit {}, or does not go back", number, e);
    ends = ends || layout.exits[e].stage == pass.last;
    taught = taught || pass.exits[e] == ExitRole::taught;
  }
  if (!ends) refuse("pass {} goes up to stage {}, where none of its exits is", number, pass.last);
  if (!taught) return;
  if (pass.teacher < 0 || size_of(pass.teacher) > number || layout.passes[size_of(pass.teacher)].last != layout.stages - 1)
    refuse("pass {} learns from pass {}, which is no earlier one up to the last stage", number, pass.teacher);
  if (layout.split_heads || layout.stages > layout.ranks)
    refuse("exits learn from the final head with whole heads and one stage a rank alone");
}

void check_passes(const Layout& layout) {
  if (layout.passes.empty()) return;
  if (!layout.reach.empty()) refuse("passes and partial microbatches");
  if (layout.microbatches % layout.pass_count() != 0)
    refuse("{} microbatches are no multiple of {} passes", layout.microbatches, layout.pass_count());
  for (std::size_t k = 0; k < layout.passes.size(); ++k) check_pass(k, layout);
}

void check_exits_and_segments(const Layout& layout) {
  for (const ExitPlace& exit : layout.exits) {
    if (exit.stage < 0 || exit.stage >= layout.stages) refuse("an exit on stage {} of {}", exit.stage, layout.stages);
  }
  if (!layout.segments.empty() && layout.segments.size() != size_of(layout.stages)) {
    refuse("segments for {} stages of {}", layout.segments.size(), layout.stages);
  }
  for (int n : layout.segments) {
    if (n < 1) refuse("a backward of {} segments", n);
  }
}

void check_ties(const Layout& layout) {
  for (const auto& holders : layout.ties) {
    if (holders.empty()) refuse("a tie that no stage holds");
    if (holders.front() >= layout.stages || holders.back() < 0) refuse("a tie on stage {} of {}", holders.front(), layout.stages);
    if (!std::is_sorted(holders.rbegin(), holders.rend(), std::less_equal<>())) refuse("a tie's stages must go from high to low");
  }
}

void check_bucket(const BucketPlace& bucket, int stage, const Layout& layout) {
  if ((bucket.segment >= 0) == (bucket.tie >= 0)) {
    refuse("stage {}: a bucket waits for a segment or a tie, not segment {} and tie {}", stage, bucket.segment, bucket.tie);
  }
  if (bucket.segment >= layout.segments_of(stage)) {
    refuse("stage {}: a bucket waits for segment {} of {}", stage, bucket.segment, layout.segments_of(stage));
  }
  if (bucket.tie < 0) return;
  const bool held = size_of(bucket.tie) < layout.ties.size() && std::ranges::count(layout.ties[size_of(bucket.tie)], stage) == 1;
  if (!held) refuse("stage {}: a bucket waits for tie {}, which that stage does not hold", stage, bucket.tie);
}

bool within(int value, std::size_t end) { return value >= 0 && size_of(value) < end; }

// A pass over a stage's weights: whole, or where it is the last of a step cut into segments.
bool segment_exists(const Action& action, const Layout& layout) {
  const int segments = layout.segments_of(action.stage);
  const bool cut = segments > 1 && action.microbatch == layout.last_microbatch(action.stage);
  return cut ? within(action.index, size_of(segments)) : action.index == -1;
}

bool exit_exists(const Action& action, const Layout& layout) {
  if (!within(action.index, layout.exits.size())) return false;
  const int stage = layout.exits[size_of(action.index)].stage;
  const bool at_tap = action.op == Op::Exit || action.op == Op::Tap || action.op == Op::Untap;
  if (at_tap ? action.stage != stage : action.stage >= layout.ranks) return false;
  if (is_head(action.op) != layout.split_heads) return false;
  if (action.op == Op::SumShares && layout.ranks == 1) return false;
  const bool training = action.op == Op::HeadWeightGrad || action.op == Op::SumShares || action.op == Op::Untap;
  return layout.meets(action.index, action.microbatch) && (layout.backward || !training);
}

bool compute_exists(const Action& action, const Layout& layout) {
  const int s = action.stage, m = action.microbatch;
  const bool back = layout.learns() && layout.runs_backward(s, m);
  switch (action.op) {
    case Op::Forward:
      return action.index == -1 && layout.runs_forward(s, m);
    case Op::Recompute:
      return action.index == -1 && back && layout.recomputes(s);
    case Op::Backward:
      return back && (layout.split_backward ? action.index == -1 : segment_exists(action, layout));
    case Op::WeightGrad:
      return back && layout.split_backward && segment_exists(action, layout);
    case Op::ShareFinal:
      return action.index == -1 && shares_final(s, m, layout);
    default:
      return exit_exists(action, layout);
  }
}

bool message_exists(const Action& action, const Layout& layout) {
  if (action.index != -1) return false;
  const int s = action.stage, m = action.microbatch;
  const bool above = s < layout.stages - 1 && layout.runs_forward(s + 1, m), below = s > 0 && layout.runs_forward(s, m);
  switch (action.op) {
    case Op::SendActivation:
      return above;
    case Op::RecvActivation:
      return below;
    case Op::SendGradient:
      return below && layout.learns() && layout.runs_backward(s - 1, m);
    default:
      return above && layout.learns() && layout.runs_backward(s, m);
  }
}

bool once_exists(const Action& action, const Layout& layout) {
  if (!layout.backward || action.microbatch != -1) return false;
  if (action.op == Op::ReduceGradients)
    return !layout.buckets.empty() && within(action.index, layout.buckets[size_of(action.stage)].size());
  return within(action.index, layout.ties.size()) && std::ranges::count(layout.ties[size_of(action.index)], action.stage) == 1;
}

void append_if(std::vector<Action>& actions, const Action& action, const Layout& layout) {
  if (exists(action, layout)) actions.push_back(action);
}

void append_segments(std::vector<Action>& actions, Op op, int stage, int microbatch, const Layout& layout) {
  append_if(actions, make_action(op, stage, microbatch), layout);
  for (int k = 0; k < layout.segments_of(stage); ++k) append_if(actions, make_action(op, stage, microbatch, k), layout);
}

// Everything that is there once a microbatch and stage, in the order in which a lone rank would run it.
void append_microbatch(std::vector<Action>& actions, int stage, int microbatch, const Layout& layout) {
  for (Op op : {Op::RecvActivation, Op::Forward, Op::SendActivation, Op::ShareFinal, Op::RecvGradient})
    append_if(actions, make_action(op, stage, microbatch), layout);
  for (int e = 0; e < static_cast<int>(layout.exits.size()); ++e) {
    for (Op op :
         {Op::Exit, Op::Tap, Op::ShareTap, Op::Scores, Op::ShareScores, Op::HeadBackward, Op::HeadWeightGrad, Op::SumShares, Op::Untap})
      append_if(actions, make_action(op, stage, microbatch, e), layout);
  }
  append_if(actions, make_action(Op::Recompute, stage, microbatch), layout);
  append_segments(actions, Op::Backward, stage, microbatch, layout);
  append_if(actions, make_action(Op::SendGradient, stage, microbatch), layout);
  append_segments(actions, Op::WeightGrad, stage, microbatch, layout);
}

bool is_cut(int stage, int microbatch, const Layout& layout) {
  return layout.segments_of(stage) > 1 && microbatch == layout.last_microbatch(stage);
}

}  // namespace

Action make_action(Op op, int stage, int microbatch, int index) {
  return {op, static_cast<std::int16_t>(stage), static_cast<std::int16_t>(microbatch), static_cast<std::int16_t>(index)};
}

Action first_backward(int stage, int microbatch, const Layout& layout) {
  return make_action(Op::Backward, stage, microbatch, !layout.split_backward && is_cut(stage, microbatch, layout) ? 0 : -1);
}

Action last_backward(int stage, int microbatch, const Layout& layout) {
  if (layout.split_backward) return make_action(Op::Backward, stage, microbatch);
  return last_weight_gradient(stage, microbatch, layout);
}

Action last_weight_gradient(int stage, int microbatch, const Layout& layout) {
  const Op op = layout.split_backward ? Op::WeightGrad : Op::Backward;
  return make_action(op, stage, microbatch, is_cut(stage, microbatch, layout) ? layout.segments_of(stage) - 1 : -1);
}

bool is_head(Op op) {
  constexpr std::array kHead = {Op::Tap,   Op::Scores,   Op::HeadBackward, Op::HeadWeightGrad,
                                Op::Untap, Op::ShareTap, Op::ShareScores,  Op::SumShares};
  return std::ranges::count(kHead, op) == 1;
}

bool computes(Op op) { return !is_message(op) && op != Op::ReduceTied && op != Op::ReduceGradients; }
bool is_message(Op op) {
  return is_send(op) || is_receive(op) || op == Op::ShareTap || op == Op::ShareScores || op == Op::SumShares || op == Op::ShareFinal;
}

bool is_send(Op op) { return op == Op::SendActivation || op == Op::SendGradient; }
bool is_receive(Op op) { return op == Op::RecvActivation || op == Op::RecvGradient; }

Action receive_of(const Action& send) {
  return send.op == Op::SendActivation ? make_action(Op::RecvActivation, send.stage + 1, send.microbatch)
                                       : make_action(Op::RecvGradient, send.stage - 1, send.microbatch);
}

std::vector<Action> partners_of(const Action& send, const Layout& layout) {
  if (is_send(send.op)) return {receive_of(send)};
  std::vector<Action> partners;
  if (send.op == Op::ReduceTied) {
    const std::vector<int>& holders = layout.ties[size_of(send.index)];
    const auto lower = std::next(std::ranges::find(holders, send.stage));
    if (lower != holders.end() && layout.rank_of(*lower) != layout.rank_of(send.stage))
      partners.push_back(make_action(Op::ReduceTied, *lower, -1, send.index));
  }
  for (int s = 0; s < layout.stages - 1 && send.op == Op::ShareFinal && send.stage == layout.stages - 1; ++s)
    if (shares_final(s, send.microbatch, layout)) partners.push_back(make_action(Op::ShareFinal, s, send.microbatch));
  if (send.op != Op::ShareTap && send.op != Op::SumShares) return partners;
  const int root = layout.rank_of(layout.exits[size_of(send.index)].stage);
  if (send.op == Op::SumShares && send.stage != root) partners.push_back(make_action(Op::SumShares, root, send.microbatch, send.index));
  for (int r = 0; r < layout.ranks && send.op == Op::ShareTap && send.stage == root; ++r)
    if (r != root) partners.push_back(make_action(Op::ShareTap, r, send.microbatch, send.index));
  return partners;
}

void check_layout(const Layout& layout) {
  check_sizes(layout);
  check_passes(layout);
  check_reach(layout);
  check_exits_and_segments(layout);
  check_ties(layout);
  if (layout.buckets.empty()) return;
  if (layout.buckets.size() != size_of(layout.stages)) refuse("buckets for {} stages of {}", layout.buckets.size(), layout.stages);
  for (int s = 0; s < layout.stages; ++s) {
    for (const BucketPlace& bucket : layout.buckets[size_of(s)]) check_bucket(bucket, s, layout);
  }
}

bool exists(const Action& action, const Layout& layout) {
  if (!within(action.stage, size_of(layout.stages))) return false;
  if (action.op == Op::ReduceTied || action.op == Op::ReduceGradients) return once_exists(action, layout);
  if (!within(action.microbatch, size_of(layout.microbatches))) return false;
  return is_send(action.op) || is_receive(action.op) ? message_exists(action, layout) : compute_exists(action, layout);
}

std::vector<Action> actions_of(const Layout& layout) {
  std::vector<Action> actions;
  for (int s = 0; s < layout.stages; ++s) {
    for (int m = 0; m < layout.microbatches; ++m) append_microbatch(actions, s, m, layout);
  }
  if (!layout.backward) return actions;
  for (std::size_t t = 0; t < layout.ties.size(); ++t) {
    for (int s : layout.ties[t]) actions.push_back(make_action(Op::ReduceTied, s, -1, static_cast<int>(t)));
  }
  for (std::size_t s = 0; s < layout.buckets.size(); ++s) {
    for (std::size_t b = 0; b < layout.buckets[s].size(); ++b) {
      actions.push_back(make_action(Op::ReduceGradients, static_cast<int>(s), -1, static_cast<int>(b)));
    }
  }
  return actions;
}

ActionIds::ActionIds(const Layout& layout) : ranks_(size_of(layout.ranks)), microbatches_(size_of(layout.microbatches)) {
  std::size_t segments = 1, buckets = 0;
  for (int n : layout.segments) segments = std::max(segments, size_of(n));
  for (const auto& of_stage : layout.buckets) buckets = std::max(buckets, of_stage.size());
  const std::size_t stages = size_of(layout.stages), exits = layout.exits.size();
  for (std::size_t i = 0; i < kOps; ++i) {
    const Op op = Op(i);
    std::size_t rows = stages, width = microbatches_;
    if (op == Op::Exit || is_head(op)) rows = exits * (op == Op::Exit || op == Op::Tap || op == Op::Untap ? 1 : ranks_);
    if (is_head(op) && !layout.split_heads) rows = 0;
    if (op == Op::Backward || op == Op::WeightGrad) width = microbatches_ + segments;
    if (op == Op::ReduceTied) rows = layout.ties.size(), width = stages;
    if (op == Op::ReduceGradients) width = buckets;
    base_[i] = size_;
    width_[i] = width;
    size_ += rows * width;
  }
}

std::size_t ActionIds::operator()(const Action& action) const {
  const std::size_t op = static_cast<std::size_t>(action.op);
  std::size_t row = size_of(action.stage), column = size_of(action.microbatch);
  const bool at_tap = action.op == Op::Exit || action.op == Op::Tap || action.op == Op::Untap;
  if (at_tap) row = size_of(action.index);
  if (!at_tap && is_head(action.op)) row = size_of(action.index) * ranks_ + size_of(action.stage);
  const bool cut = (action.op == Op::Backward || action.op == Op::WeightGrad) && action.index >= 0;
  if (cut) column = microbatches_ + size_of(action.index);
  if (action.op == Op::ReduceTied) row = size_of(action.index), column = size_of(action.stage);
  if (action.op == Op::ReduceGradients) column = size_of(action.index);
  return base_[op] + row * width_[op] + column;
}

}  // namespace offramp
