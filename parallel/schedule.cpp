// What actions mean: in time (dependencies) and in memory (lifetimes).
#include "parallel/schedule.h"

#include <algorithm>
#include <iterator>

#include "parallel/actions.h"

namespace offramp {
namespace {

const ExitPlace& exit_at(const Layout& layout, int index) { return layout.exits[static_cast<std::size_t>(index)]; }
int exit_count(const Layout& layout) { return static_cast<int>(layout.exits.size()); }
bool is_last(int stage, const Layout& layout) { return stage == layout.stages - 1; }

// The last stage sends nothing on, so there a tap at the output is a tap like others.
bool reads_output(const ExitPlace& exit, const Layout& layout) { return exit.at_output && !is_last(exit.stage, layout); }

bool same_tap(const ExitPlace& a, const ExitPlace& b, const Layout& layout) {
  if (a.stage != b.stage) return false;
  return reads_output(a, layout) || reads_output(b, layout) ? reads_output(a, layout) && reads_output(b, layout) : a.tap == b.tap;
}

bool output_is_tapped(int stage, const Layout& layout) {
  return std::ranges::any_of(layout.exits, [&](const ExitPlace& exit) { return exit.stage == stage && reads_output(exit, layout); });
}

bool is_first_of_tap(int index, const Layout& layout) {
  for (int e = 0; e < index; ++e) {
    if (same_tap(exit_at(layout, e), exit_at(layout, index), layout)) return false;
  }
  return true;
}

bool is_last_of_tap(int index, const Layout& layout) {
  for (int e = index + 1; e < exit_count(layout); ++e) {
    if (same_tap(exit_at(layout, e), exit_at(layout, index), layout)) return false;
  }
  return true;
}

// The highest exit below `end` on this stage, or -1.
int last_exit_before(int end, int stage, const Layout& layout) {
  for (int e = end - 1; e >= 0; --e) {
    if (exit_at(layout, e).stage == stage) return e;
  }
  return -1;
}

void append_exits(std::vector<Action>& actions, int stage, int microbatch, const Layout& layout) {
  for (int e = 0; e < exit_count(layout); ++e) {
    if (exit_at(layout, e).stage == stage) actions.push_back(make_action(Op::Exit, stage, microbatch, e));
  }
}

// Exits of a stage run in (microbatch, exit) order: heads that share a matrix then always add up in the same order, and the last
// reader of a tap is known beforehand.
std::vector<Action> needs_of_exit(const Action& exit, const Layout& layout) {
  std::vector<Action> needs{make_action(Op::Forward, exit.stage, exit.microbatch)};
  if (const int e = last_exit_before(exit.index, exit.stage, layout); e >= 0) {
    needs.push_back(make_action(Op::Exit, exit.stage, exit.microbatch, e));
  } else if (exit.microbatch > 0) {
    const int last = last_exit_before(exit_count(layout), exit.stage, layout);
    needs.push_back(make_action(Op::Exit, exit.stage, exit.microbatch - 1, last));
  }
  // The neighbour waits for the output, nobody waits for the exit: the message leaves first.
  if (reads_output(exit_at(layout, exit.index), layout)) needs.push_back(make_action(Op::SendActivation, exit.stage, exit.microbatch));
  return needs;
}

std::vector<Action> needs_of_backward(const Action& backward, const Layout& layout) {
  const int s = backward.stage, m = backward.microbatch;
  if (backward.index > 0) return {make_action(Op::Backward, s, m, backward.index - 1)};
  std::vector<Action> needs{make_action(Op::Forward, s, m)};
  append_exits(needs, s, m, layout);
  if (!is_last(s, layout)) {
    needs.push_back(make_action(Op::RecvGradient, s, m));
    needs.push_back(make_action(Op::SendGradient, s + 1, m));
  }
  if (m > 0) needs.push_back(make_action(Op::Backward, s, m - 1));
  return needs;
}

std::vector<Action> needs_of_tie(const Action& tie, const Layout& layout) {
  const int last = layout.microbatches - 1;
  std::vector<Action> needs{last_backward(tie.stage, last, layout)};
  append_exits(needs, tie.stage, last, layout);
  const std::vector<int>& holders = layout.ties[static_cast<std::size_t>(tie.index)];
  const auto here = std::ranges::find(holders, tie.stage);
  if (here != holders.begin()) needs.push_back(make_action(Op::ReduceTied, *std::prev(here), -1, tie.index));
  return needs;
}

std::vector<Action> needs_of_bucket(const Action& reduce, const Layout& layout) {
  const int s = reduce.stage, last = layout.microbatches - 1;
  const BucketPlace& bucket = layout.buckets[static_cast<std::size_t>(s)][static_cast<std::size_t>(reduce.index)];
  std::vector<Action> needs;
  if (bucket.tie >= 0) {
    needs.push_back(make_action(Op::ReduceTied, s, -1, bucket.tie));
  } else {
    needs.push_back(make_action(Op::Backward, s, last, layout.segments_of(s) > 1 ? bucket.segment : -1));
  }
  append_exits(needs, s, last, layout);
  return needs;
}

Slab slab_of(Hold what, const Action& action, int index = -1) {
  return {what, action.stage, action.microbatch, static_cast<std::int16_t>(index)};
}

// Taps of the stage, each once, but not its output.
void append_taps(std::vector<Slab>& slabs, const Action& action, const Layout& layout) {
  for (int e = 0; e < exit_count(layout); ++e) {
    const ExitPlace& exit = exit_at(layout, e);
    if (exit.stage != action.stage || reads_output(exit, layout) || !is_first_of_tap(e, layout)) continue;
    slabs.push_back(slab_of(Hold::Tap, action, exit.tap));
  }
}

Lifetimes slabs_of_forward(const Action& forward, const Layout& layout) {
  Lifetimes slabs;
  if (layout.backward) slabs.takes.push_back(slab_of(Hold::Stash, forward));
  append_taps(slabs.takes, forward, layout);
  if (!is_last(forward.stage, layout)) slabs.takes.push_back(slab_of(Hold::Output, forward));
  if (!layout.backward && forward.stage > 0) slabs.gives.push_back(slab_of(Hold::Input, forward));
  return slabs;
}

Lifetimes slabs_of_exit(const Action& action, const Layout& layout) {
  Lifetimes slabs;
  const ExitPlace& exit = exit_at(layout, action.index);
  if (layout.backward) {
    if (exit.gradient) slabs.takes.push_back(slab_of(Hold::TapGradient, action, action.index));
  } else if (is_last_of_tap(action.index, layout)) {
    slabs.gives.push_back(reads_output(exit, layout) ? slab_of(Hold::Output, action) : slab_of(Hold::Tap, action, exit.tap));
  }
  return slabs;
}

Lifetimes slabs_of_backward(const Action& backward, const Layout& layout) {
  const int s = backward.stage, m = backward.microbatch;
  Lifetimes slabs;
  if (backward == first_backward(s, m, layout) && is_last(s, layout)) slabs.takes.push_back(slab_of(Hold::Gradient, backward));
  if (backward != last_backward(s, m, layout)) return slabs;
  slabs.gives.push_back(slab_of(Hold::Stash, backward));
  if (s > 0) slabs.gives.push_back(slab_of(Hold::Input, backward));
  append_taps(slabs.gives, backward, layout);
  for (int e = 0; e < exit_count(layout); ++e) {
    const ExitPlace& exit = exit_at(layout, e);
    if (exit.stage == s && exit.gradient) slabs.gives.push_back(slab_of(Hold::TapGradient, backward, e));
  }
  if (output_is_tapped(s, layout)) slabs.gives.push_back(slab_of(Hold::Output, backward));
  if (s == 0) slabs.gives.push_back(slab_of(Hold::Gradient, backward));
  return slabs;
}

}  // namespace

std::vector<Action> dependencies(const Action& action, const Layout& layout) {
  const int s = action.stage, m = action.microbatch;
  switch (action.op) {
    case Op::Forward:
      if (s == 0) return {};
      return {make_action(Op::RecvActivation, s, m), make_action(Op::SendActivation, s - 1, m)};
    case Op::Exit:
      return needs_of_exit(action, layout);
    case Op::Backward:
      return needs_of_backward(action, layout);
    case Op::SendActivation:
      return {make_action(Op::Forward, s, m)};
    case Op::SendGradient:
      return {last_backward(s, m, layout)};
    case Op::RecvActivation:
    case Op::RecvGradient:
      return {};
    case Op::ReduceTied:
      return needs_of_tie(action, layout);
    case Op::ReduceGradients:
      return needs_of_bucket(action, layout);
  }
  return {};
}

Lifetimes lifetimes(const Action& action, const Layout& layout) {
  switch (action.op) {
    case Op::Forward:
      return slabs_of_forward(action, layout);
    case Op::Exit:
      return slabs_of_exit(action, layout);
    case Op::Backward:
      return slabs_of_backward(action, layout);
    case Op::SendActivation:
      if (output_is_tapped(action.stage, layout)) return {};
      return {.takes = {}, .gives = {slab_of(Hold::Output, action)}};
    case Op::RecvActivation:
      return {.takes = {slab_of(Hold::Input, action)}, .gives = {}};
    case Op::SendGradient:
      return {.takes = {}, .gives = {slab_of(Hold::Gradient, action)}};
    case Op::RecvGradient:
      return {.takes = {slab_of(Hold::Gradient, action)}, .gives = {}};
    case Op::ReduceTied:
    case Op::ReduceGradients:
      return {};
  }
  return {};
}

const char* name_of(Hold hold) {
  switch (hold) {
    case Hold::Input:
      return "input";
    case Hold::Stash:
      return "stash";
    case Hold::Tap:
      return "tap";
    case Hold::Output:
      return "output";
    case Hold::TapGradient:
      return "tap gradient";
    case Hold::Gradient:
      return "gradient";
  }
  return "?";
}

}  // namespace offramp
