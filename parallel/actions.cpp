#include "parallel/actions.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

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

bool backward_exists(const Action& action, const Layout& layout) {
  const int segments = layout.segments_of(action.stage);
  const bool cut = segments > 1 && action.microbatch == layout.microbatches - 1;
  return layout.backward && (cut ? within(action.index, size_of(segments)) : action.index == -1);
}

// Everything that is there once a microbatch and stage, in the order in which a lone rank would run it.
void append_microbatch(std::vector<Action>& actions, int stage, int microbatch, const Layout& layout) {
  for (Op op : {Op::RecvActivation, Op::Forward, Op::SendActivation, Op::RecvGradient}) {
    const Action action = make_action(op, stage, microbatch);
    if (exists(action, layout)) actions.push_back(action);
  }
  for (std::size_t e = 0; e < layout.exits.size(); ++e) {
    if (layout.exits[e].stage == stage) actions.push_back(make_action(Op::Exit, stage, microbatch, static_cast<int>(e)));
  }
  if (!layout.backward) return;
  const int last = last_backward(stage, microbatch, layout).index;
  for (int k = std::min(last, 0); k <= last; ++k) actions.push_back(make_action(Op::Backward, stage, microbatch, k));
  if (stage > 0) actions.push_back(make_action(Op::SendGradient, stage, microbatch));
}

}  // namespace

Action make_action(Op op, int stage, int microbatch, int index) {
  return {op, static_cast<std::int16_t>(stage), static_cast<std::int16_t>(microbatch), static_cast<std::int16_t>(index)};
}

Action first_backward(int stage, int microbatch, const Layout& layout) {
  const bool cut = microbatch == layout.microbatches - 1 && layout.segments_of(stage) > 1;
  return make_action(Op::Backward, stage, microbatch, cut ? 0 : -1);
}

Action last_backward(int stage, int microbatch, const Layout& layout) {
  const bool cut = microbatch == layout.microbatches - 1 && layout.segments_of(stage) > 1;
  return make_action(Op::Backward, stage, microbatch, cut ? layout.segments_of(stage) - 1 : -1);
}

bool is_send(Op op) { return op == Op::SendActivation || op == Op::SendGradient; }
bool is_receive(Op op) { return op == Op::RecvActivation || op == Op::RecvGradient; }

Action receive_of(const Action& send) {
  return send.op == Op::SendActivation ? make_action(Op::RecvActivation, send.stage + 1, send.microbatch)
                                       : make_action(Op::RecvGradient, send.stage - 1, send.microbatch);
}

void check_layout(const Layout& layout) {
  check_sizes(layout);
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
  const bool once = action.op == Op::ReduceTied || action.op == Op::ReduceGradients;
  if (once ? action.microbatch != -1 : !within(action.microbatch, size_of(layout.microbatches))) return false;
  const bool plain = action.index == -1, above = action.stage<layout.stages - 1, below = action.stage> 0;
  switch (action.op) {
    case Op::Forward:
      return plain;
    case Op::Exit:
      return within(action.index, layout.exits.size()) && layout.exits[size_of(action.index)].stage == action.stage;
    case Op::Backward:
      return backward_exists(action, layout);
    case Op::SendActivation:
      return plain && above;
    case Op::RecvActivation:
      return plain && below;
    case Op::SendGradient:
      return plain && below && layout.backward;
    case Op::RecvGradient:
      return plain && above && layout.backward;
    case Op::ReduceTied:
      return layout.backward && within(action.index, layout.ties.size()) &&
             std::ranges::count(layout.ties[size_of(action.index)], action.stage) == 1;
    case Op::ReduceGradients:
      return layout.backward && !layout.buckets.empty() && within(action.index, layout.buckets[size_of(action.stage)].size());
  }
  return false;
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

ActionIds::ActionIds(const Layout& layout) : microbatches_(size_of(layout.microbatches)) {
  std::size_t segments = 1, buckets = 0;
  for (int n : layout.segments) segments = std::max(segments, size_of(n));
  for (const auto& of_stage : layout.buckets) buckets = std::max(buckets, of_stage.size());
  const std::size_t stages = size_of(layout.stages);
  for (std::size_t op = 0; op < base_.size(); ++op) {
    std::size_t rows = stages, width = microbatches_;
    if (Op(op) == Op::Exit) rows = layout.exits.size();
    if (Op(op) == Op::Backward) width = microbatches_ + segments;
    if (Op(op) == Op::ReduceTied) rows = layout.ties.size(), width = stages;
    if (Op(op) == Op::ReduceGradients) width = buckets;
    base_[op] = size_;
    width_[op] = width;
    size_ += rows * width;
  }
}

std::size_t ActionIds::operator()(const Action& action) const {
  const std::size_t op = static_cast<std::size_t>(action.op);
  std::size_t row = size_of(action.stage), column = size_of(action.microbatch);
  if (action.op == Op::Exit) row = size_of(action.index);
  if (action.op == Op::Backward && action.index >= 0) column = microbatches_ + size_of(action.index);
  if (action.op == Op::ReduceTied) row = size_of(action.index), column = size_of(action.stage);
  if (action.op == Op::ReduceGradients) column = size_of(action.index);
  return base_[op] + row * width_[op] + column;
}

}  // namespace offramp
