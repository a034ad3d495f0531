#include "parallel/fill.h"

#include <algorithm>

#include "parallel/actions.h"

namespace offramp {
namespace {

// The highest stage up to `most` that has an exit; -1: none.
int last_exit_stage(int most, const Layout& layout) {
  int last = -1;
  for (const ExitPlace& exit : layout.exits)
    if (exit.stage <= most) last = std::max(last, exit.stage);
  return last;
}

// The one that goes furthest starts first and comes back last: then no stage pauses in its gap.
void append_warmup(std::vector<Reach>& reach, const FillOptions& options, const Layout& layout) {
  for (int k = 0; k < options.partial; ++k)
    if (const int last = last_exit_stage(k, layout); last >= 0) reach.push_back({0, last});
}

// Stage r has time for floor(R r / (1 + R)) of them, so the j-th goes back as far as the lowest stage that has time for j.
void append_cooldown(std::vector<Reach>& reach, const FillOptions& options, const Layout& layout) {
  for (int j = 1; j <= options.partial; ++j) {
    const int first = (j * (1 + options.ratio) + options.ratio - 1) / options.ratio;
    reach.push_back({std::min(first, layout.stages - 1), layout.stages - 1});
  }
}

double went_back(int stage, const Layout& layout, std::span<const double> counted) {
  double sum = 0;
  for (int m = 0; m < layout.microbatches; ++m)
    if (layout.runs_backward(stage, m)) sum += counted[static_cast<std::size_t>(m)];
  return sum;
}

// Partial microbatches of the warm-up start, on every stage, behind as many whole ones: a channel keeps its order. As many as the highest
// of their stages runs before its first backward.
int whole_before_partial(int first_whole, const Layout& layout) {
  int top = 0;
  for (int m = 0; m < first_whole; ++m) top = std::max(top, layout.reach_of(m).last);
  return std::min(layout.stages - top, layout.microbatches - first_whole);
}

Program filled_program(int stage, const Layout& layout) {
  Program program;
  const int begin = first_whole(layout), end = layout.microbatches, enter = begin + whole_before_partial(begin, layout);
  const int ahead = std::min(layout.stages - stage - 1, end - begin);
  const auto append = [&](Op op, int m) {
    const bool runs = op == Op::Forward ? layout.runs_forward(stage, m) : layout.runs_backward(stage, m);
    if (runs) program.push_back(make_action(op, stage, m));
  };
  const auto enter_partial = [&] {
    for (int m = begin - 1; m >= 0; --m) append(Op::Forward, m);
  };
  for (int m = begin; m < end && m <= begin + ahead; ++m) {
    if (m == enter) enter_partial();
    append(Op::Forward, m);
  }
  if (enter > std::min(end - 1, begin + ahead)) enter_partial();
  for (int m = 0; m < begin; ++m) append(Op::Backward, m);
  for (int m = begin + ahead; m < end; ++m) {
    if (m > begin + ahead) append(Op::Forward, m);
    append(Op::Backward, m - ahead);
  }
  for (int m = end - ahead; m < end; ++m) append(Op::Backward, m);
  return program;
}

}  // namespace

std::vector<Reach> filled_reach(const FillOptions& options, const Layout& layout) {
  std::vector<Reach> reach;
  if (options.fill == Fill::warmup) append_warmup(reach, options, layout);
  reach.resize(reach.size() + static_cast<std::size_t>(layout.microbatches), {0, layout.stages - 1});
  if (options.fill == Fill::cooldown) append_cooldown(reach, options, layout);
  return reach;
}

bool is_whole(int microbatch, const Layout& layout) {
  const Reach reach = layout.reach_of(microbatch);
  return reach.first == 0 && reach.last == layout.stages - 1;
}

int first_whole(const Layout& layout) {
  int m = 0;
  while (m + 1 < layout.microbatches && !is_whole(m, layout)) ++m;
  return m;
}

Schedule filled_one_f_one_b(const Layout& layout) {
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) schedule[static_cast<std::size_t>(s)] = filled_program(s, layout);
  return schedule;
}

FillWeights fill_weights(Fill fill, const Layout& layout, std::span<const double> counted) {
  double whole = 0;
  for (int m = 0; m < layout.microbatches; ++m) whole += is_whole(m, layout) ? counted[static_cast<std::size_t>(m)] : 0;
  FillWeights weights{std::vector(layout.exits.size(), whole), std::vector(static_cast<std::size_t>(layout.stages), 1.0)};
  for (std::size_t e = 0; e < layout.exits.size() && fill == Fill::warmup; ++e)
    weights.exits[e] = went_back(layout.exits[e].stage, layout, counted);
  for (int s = 0; s < layout.stages && fill == Fill::cooldown; ++s)
    if (const double back = went_back(s, layout, counted); back > 0) weights.gradients[static_cast<std::size_t>(s)] = whole / back;
  return weights;
}

}  // namespace offramp
