// What actions mean in memory.
#include "parallel/actions.h"
#include "parallel/taps.h"

namespace offramp {
namespace {

Slab slab_of(Hold what, const Action& action, int index = -1) {
  return {what, action.stage, action.microbatch, static_cast<std::int16_t>(index)};
}

Slab on_stage(Slab slab, int stage) {
  slab.stage = static_cast<std::int16_t>(stage);
  return slab;
}

bool sends_on(int stage, int microbatch, const Layout& layout) {
  return stage < layout.stages - 1 && layout.runs_forward(stage + 1, microbatch);
}

// Whether this microbatch's exits run here: in training only where its backward does.
bool runs_exits(int stage, int microbatch, const Layout& layout) {
  return layout.backward ? layout.runs_backward(stage, microbatch) : layout.runs_forward(stage, microbatch);
}

bool goes_back(const Action& action, const Layout& layout) {
  return layout.learns() && layout.runs_backward(action.stage, action.microbatch);
}

bool taps_output(const Action& action, const Layout& layout) {
  return runs_exits(action.stage, action.microbatch, layout) && output_is_tapped(action.stage, action.microbatch, layout);
}

// Taps of the stage, each once, but not its output.
void append_taps(std::vector<Slab>& slabs, const Action& action, const Layout& layout) {
  if (!runs_exits(action.stage, action.microbatch, layout)) return;
  for (int e = 0; e < exit_count(layout); ++e) {
    const ExitPlace& exit = exit_at(layout, e);
    if (exit.stage != action.stage || reads_output(exit, layout)) continue;
    if (!layout.meets(e, action.microbatch) || !is_first_of_tap(e, action.microbatch, layout)) continue;
    slabs.push_back(slab_of(Hold::Tap, action, exit.tap));
  }
}

// On the last stage: whether somebody learns from what the final head reads of this microbatch.
bool keeps_final(const Action& forward, const Layout& layout) {
  const int last = layout.stages - 1;
  return forward.stage == last &&
         (last_taught(last, forward.microbatch, layout) != Met{} || shares_final(last, forward.microbatch, layout));
}

Lifetimes slabs_of_forward(const Action& forward, const Layout& layout) {
  Lifetimes slabs;
  const bool back = goes_back(forward, layout);
  if (back && !layout.recomputes(forward.stage)) slabs.takes.push_back(slab_of(Hold::Stash, forward));
  append_taps(slabs.takes, forward, layout);
  const bool read = sends_on(forward.stage, forward.microbatch, layout) || taps_output(forward, layout);
  if (forward.stage < layout.stages - 1) slabs.takes.push_back(slab_of(Hold::Output, forward));
  if (forward.stage < layout.stages - 1 && !read) slabs.gives.push_back(slab_of(Hold::Output, forward));  // a partial microbatch's end
  if (!back && forward.stage > 0) slabs.gives.push_back(slab_of(Hold::Input, forward));
  if (keeps_final(forward, layout)) slabs.takes.push_back(slab_of(Hold::Final, forward));
  return slabs;
}

// Who has no exits that it teaches only sends it.
Lifetimes slabs_of_share_final(const Action& action, const Layout& layout) {
  if (action.stage < layout.stages - 1) return {.takes = {slab_of(Hold::Final, action)}, .gives = {}};
  if (last_taught(action.stage, action.microbatch, layout) != Met{}) return {};
  return {.takes = {}, .gives = {slab_of(Hold::Final, action)}};
}

// What whoever reads the tap does to it: it goes with the last reader, unless a backward comes.
void give_tap(Lifetimes& slabs, const Action& reader, const Layout& layout) {
  const ExitPlace& exit = exit_at(layout, reader.index);
  if (layout.learns() || !is_last_of_tap(reader.index, reader.microbatch, layout)) return;
  slabs.gives.push_back(reads_output(exit, layout) ? slab_of(Hold::Output, reader) : slab_of(Hold::Tap, reader, exit.tap));
}

void take_tap_gradient(Lifetimes& slabs, const Action& action, const Layout& layout) {
  if (layout.learns() && exit_at(layout, action.index).gradient) slabs.takes.push_back(slab_of(Hold::TapGradient, action, action.index));
}

Lifetimes slabs_of_exit(const Action& action, const Layout& layout) {
  Lifetimes slabs;
  take_tap_gradient(slabs, action, layout);
  give_tap(slabs, action, layout);
  const int teacher = layout.teacher_of(action.microbatch);
  if (teacher < 0 || last_taught(action.stage, teacher, layout) != Met{action.microbatch, action.index}) return slabs;
  slabs.gives.push_back({Hold::Final, action.stage, static_cast<std::int16_t>(teacher)});
  return slabs;
}

Lifetimes slabs_of_tap(const Action& action, const Layout& layout) {
  Lifetimes slabs;
  if (layout.backward) slabs.takes.push_back(slab_of(Hold::HeadStash, action, action.index));
  slabs.takes.push_back(on_stage(slab_of(Hold::HeadInput, action, action.index), layout.rank_of(action.stage)));
  if (!layout.backward) give_tap(slabs, action, layout);  // else U reads it again
  return slabs;
}

Lifetimes slabs_of_head_backward(const Action& action, const Layout& layout) {
  const int e = action.index;
  Lifetimes slabs;
  slabs.gives.push_back(slab_of(Hold::HeadStats, action, e));
  if (layout.backward) {
    slabs.takes.push_back(slab_of(Hold::HeadShare, action, e));
  } else {
    slabs.gives.push_back(slab_of(Hold::HeadScores, action, e));
    slabs.gives.push_back(slab_of(Hold::HeadInput, action, e));
  }
  return slabs;
}

Lifetimes slabs_of_untap(const Action& action, const Layout& layout) {
  const int e = action.index, root = layout.rank_of(action.stage);
  Lifetimes slabs;
  take_tap_gradient(slabs, action, layout);
  slabs.gives = {slab_of(Hold::HeadStash, action, e), on_stage(slab_of(Hold::HeadShare, action, e), root)};
  if (layout.ranks > 1) slabs.gives.push_back(on_stage(slab_of(Hold::HeadShares, action, e), root));
  give_tap(slabs, action, layout);
  return slabs;
}

Lifetimes slabs_of_backward(const Action& backward, const Layout& layout) {
  const int s = backward.stage, m = backward.microbatch;
  Lifetimes slabs;
  const bool receives = sends_on(s, m, layout);
  if (backward == first_backward(s, m, layout)) {
    if (!receives) slabs.takes.push_back(slab_of(Hold::Gradient, backward));
    if (layout.split_backward) slabs.takes.push_back(slab_of(Hold::Deferred, backward));
  }
  if (backward != last_backward(s, m, layout)) return slabs;
  if (!layout.split_backward) slabs.gives.push_back(slab_of(Hold::Stash, backward));
  if (s > 0) slabs.gives.push_back(slab_of(Hold::Input, backward));
  append_taps(slabs.gives, backward, layout);
  for (int e = 0; e < exit_count(layout); ++e) {
    const ExitPlace& exit = exit_at(layout, e);
    if (exit.stage == s && exit.gradient && layout.meets(e, m)) slabs.gives.push_back(slab_of(Hold::TapGradient, backward, e));
  }
  if (output_is_tapped(s, m, layout)) slabs.gives.push_back(slab_of(Hold::Output, backward));
  if (s == layout.reach_of(m).first) slabs.gives.push_back(slab_of(Hold::Gradient, backward));
  return slabs;
}

Lifetimes slabs_of_weight_gradient(const Action& action, const Layout& layout) {
  Lifetimes slabs;
  if (action == last_weight_gradient(action.stage, action.microbatch, layout))
    slabs.gives = {slab_of(Hold::Stash, action), slab_of(Hold::Deferred, action)};
  return slabs;
}

}  // namespace

Lifetimes lifetimes(const Action& action, const Layout& layout) {
  const int e = action.index;
  switch (action.op) {
    case Op::Forward:
      return slabs_of_forward(action, layout);
    case Op::Recompute:
      return {.takes = {slab_of(Hold::Stash, action)}, .gives = {}};
    case Op::Exit:
      return slabs_of_exit(action, layout);
    case Op::Backward:
      return slabs_of_backward(action, layout);
    case Op::WeightGrad:
      return slabs_of_weight_gradient(action, layout);
    case Op::Tap:
      return slabs_of_tap(action, layout);
    case Op::Scores:
      return {.takes = {slab_of(Hold::HeadScores, action, e)}, .gives = {}};
    case Op::HeadBackward:
      return slabs_of_head_backward(action, layout);
    case Op::HeadWeightGrad:
      return {.takes = {}, .gives = {slab_of(Hold::HeadScores, action, e), slab_of(Hold::HeadInput, action, e)}};
    case Op::Untap:
      return slabs_of_untap(action, layout);
    case Op::SendActivation:
      if (taps_output(action, layout)) return {};
      return {.takes = {}, .gives = {slab_of(Hold::Output, action)}};
    case Op::RecvActivation:
      return {.takes = {slab_of(Hold::Input, action)}, .gives = {}};
    case Op::SendGradient:
      return {.takes = {}, .gives = {slab_of(Hold::Gradient, action)}};
    case Op::RecvGradient:
      return {.takes = {slab_of(Hold::Gradient, action)}, .gives = {}};
    case Op::ShareTap:
      if (action.stage == layout.rank_of(exit_at(layout, e).stage)) return {};
      return {.takes = {slab_of(Hold::HeadInput, action, e)}, .gives = {}};
    case Op::ShareScores:
      return {.takes = {slab_of(Hold::HeadStats, action, e)}, .gives = {}};
    case Op::SumShares:
      if (action.stage != layout.rank_of(exit_at(layout, e).stage)) return {.takes = {}, .gives = {slab_of(Hold::HeadShare, action, e)}};
      return {.takes = {slab_of(Hold::HeadShares, action, e)}, .gives = {}};
    case Op::ShareFinal:
      return slabs_of_share_final(action, layout);
    case Op::ReduceTied:
    case Op::ReduceGradients:
      return {};
  }
  return {};
}

const char* name_of(Hold hold) {
  constexpr std::array<const char*, kHolds> kNames = {"input",        "stash",      "deferred",    "tap",        "output",
                                                      "tap gradient", "gradient",   "head stash",  "head input", "head scores",
                                                      "head stats",   "head share", "head shares", "final"};
  return kNames[static_cast<std::size_t>(hold)];
}

}  // namespace offramp
