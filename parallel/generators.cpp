#include "parallel/generators.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "parallel/actions.h"
#include "parallel/fill.h"

namespace offramp {
namespace {

void need_a_stage_a_rank(std::string_view name, const Layout& layout) {
  check_layout(layout);
  if (layout.stages == layout.ranks) return;
  throw std::invalid_argument(
      fmt::format("schedule {} runs one stage a rank, not {} stages on {} ranks", name, layout.stages, layout.ranks));
}

void append(Program& program, Op op, int stage, int begin, int end) {
  for (int m = begin; m < end; ++m) program.push_back(make_action(op, stage, m));
}

// Of passes that end early, or only teach, what they run.
Schedule without_absent(Schedule schedule, const Layout& layout) {
  const auto absent = [&](const Action& a) {
    return a.op == Op::Forward ? !layout.runs_forward(a.stage, a.microbatch) : !layout.runs_backward(a.stage, a.microbatch);
  };
  for (Program& program : schedule) std::erase_if(program, absent);
  return schedule;
}

}  // namespace

// Several stages a rank go one after the other, up and down again.
Schedule gpipe(const Layout& layout) {
  check_layout(layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s)
    append(schedule[static_cast<std::size_t>(layout.rank_of(s))], Op::Forward, s, 0, layout.microbatches);
  for (int s = layout.stages - 1; s >= 0; --s)
    append(schedule[static_cast<std::size_t>(layout.rank_of(s))], Op::Backward, s, 0, layout.microbatches);
  return without_absent(std::move(schedule), layout);
}

Schedule one_f_one_b(const Layout& layout, int more) {
  need_a_stage_a_rank("1f1b", layout);
  if (!layout.reach.empty()) return filled_one_f_one_b(layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) {
    Program& program = schedule[static_cast<std::size_t>(s)];
    const int later = layout.stages - s - 1, ahead = std::min(later > 0 ? later + more : 0, layout.microbatches);
    append(program, Op::Forward, s, 0, ahead);
    for (int m = ahead; m < layout.microbatches; ++m) {
      program.push_back(make_action(Op::Forward, s, m));
      program.push_back(make_action(Op::Backward, s, m - ahead));
    }
    append(program, Op::Backward, s, layout.microbatches - ahead, layout.microbatches);
  }
  return without_absent(std::move(schedule), layout);
}

namespace {

// A stage's program in the order of its backwards: some forwards, then one backward (-1: none yet).
struct Turn {
  std::vector<int> forwards;
  int backward = -1;
  int kept = 0;  // microbatches, between the two
};

// Of a pass that ends here, and waits for nobody: its forward comes in the turn of its backward, or earlier where less than `most` is kept.
void insert_turn(std::vector<Turn>& turns, int microbatch, int most) {
  const auto after = std::ranges::upper_bound(turns, microbatch, {}, &Turn::backward);
  const Turn& before = *std::prev(after);
  auto turn = turns.insert(after, Turn{{}, microbatch, before.kept + (before.backward < 0 ? 1 : 0)});
  const auto comes_first = [&](int m) { return m < microbatch; };
  while (turn != turns.begin() && std::prev(turn)->kept < most && std::ranges::none_of(turn->forwards, comes_first)) ++(--turn)->kept;
  turn->forwards.push_back(microbatch);
}

// From the turns of the stage behind: what goes on there runs one turn earlier, so that it comes there while the one before it goes back.
std::vector<Turn> turns_before(std::vector<Turn> turns, int stage, const Layout& layout) {
  for (std::size_t k = 1; k < turns.size(); ++k) {
    Turn& earlier = turns[k - 1];
    earlier.forwards.insert(earlier.forwards.end(), turns[k].forwards.begin(), turns[k].forwards.end());
    earlier.kept = turns[k].kept + (earlier.backward < 0 ? 0 : 1);
    turns[k].forwards.clear();
  }
  for (int m = 0; m < layout.microbatches; ++m)
    if (layout.reach_of(m).last == stage && !layout.of_frozen_teacher(m)) insert_turn(turns, m, layout.stages - stage);
  return turns;
}

// A frozen teacher's passes have no turns, as they keep nothing: each is right before what comes first of those after it.
void insert_teachers(Program& program, int stage, const Layout& layout) {
  for (int m = 0; m < layout.microbatches; ++m) {
    if (!layout.of_frozen_teacher(m)) continue;
    const auto later = [&](const Action& action) { return action.op == Op::Forward && action.microbatch > m; };
    program.insert(std::ranges::find_if(program, later), make_action(Op::Forward, stage, m));
  }
}

}  // namespace

Schedule turning_one_f_one_b(const Layout& layout) {
  need_a_stage_a_rank("1f1b", layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  std::vector<Turn> turns(1);
  for (int s = layout.stages - 1; s >= 0; --s) {
    turns = turns_before(std::move(turns), s, layout);
    Program& program = schedule[static_cast<std::size_t>(s)];
    for (const Turn& turn : turns) {
      for (int m : turn.forwards) program.push_back(make_action(Op::Forward, s, m));
      if (turn.backward >= 0) program.push_back(make_action(Op::Backward, s, turn.backward));
    }
    insert_teachers(program, s, layout);
  }
  return schedule;
}

// The k-th forward of a rank is of chunk (k / P) mod v; P microbatches go through one chunk, then the same through the next.
Schedule interleaved(const Layout& layout) {
  check_layout(layout);
  const int ranks = layout.ranks, chunks = layout.stages / ranks;
  if (layout.stages % ranks != 0 || chunks < 2)
    throw std::invalid_argument(
        fmt::format("schedule interleaved runs two or more stages a rank, as many on each: not {} on {} ranks", layout.stages, ranks));
  if (layout.microbatches % ranks != 0)
    throw std::invalid_argument(
        fmt::format("schedule interleaved needs a multiple of {} microbatches, not {}", ranks, layout.microbatches));
  const int total = layout.microbatches * chunks;
  Schedule schedule(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    const auto add = [&](Op op, int k) {
      const int chunk = k / ranks % chunks, stage = r + ranks * (op == Op::Forward ? chunk : chunks - 1 - chunk);
      schedule[static_cast<std::size_t>(r)].push_back(make_action(op, stage, k / (ranks * chunks) * ranks + k % ranks));
    };
    const int ahead = std::min(total, 2 * (ranks - r - 1) + (chunks - 1) * ranks);
    for (int k = 0; k < ahead; ++k) add(Op::Forward, k);
    for (int k = ahead; k < total; ++k) add(Op::Forward, k), add(Op::Backward, k - ahead);
    for (int k = total - ahead; k < total; ++k) add(Op::Backward, k);
  }
  return without_absent(std::move(schedule), layout);
}

// Stage s does its weight gradients s microbatches late: no more than P microbatches are ever in flight, as on 1F1B's first stage.
Schedule zero_bubble(const Layout& layout) {
  need_a_stage_a_rank("zero_bubble", layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) {
    Program& program = schedule[static_cast<std::size_t>(s)];
    const int ahead = std::min(layout.stages - s, layout.microbatches), late = std::min(s, layout.microbatches);
    append(program, Op::Forward, s, 0, ahead);
    for (int m = 0; m < layout.microbatches; ++m) {
      program.push_back(make_action(Op::Backward, s, m));
      if (m >= late) program.push_back(make_action(Op::WeightGrad, s, m - late));
      if (ahead + m < layout.microbatches) program.push_back(make_action(Op::Forward, s, ahead + m));
    }
    append(program, Op::WeightGrad, s, layout.microbatches - late, layout.microbatches);
  }
  return without_absent(std::move(schedule), layout);
}

Schedule forward_only(const Layout& layout) {
  check_layout(layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) {
    Program& program = schedule[static_cast<std::size_t>(layout.rank_of(s))];
    for (int m = 0; m < layout.microbatches; ++m)
      if (layout.runs_forward(s, m)) program.push_back(make_action(Op::Forward, s, m));
  }
  return schedule;
}

}  // namespace offramp
