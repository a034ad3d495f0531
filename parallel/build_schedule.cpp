// From a schedule's name to every rank's program.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "parallel/actions.h"
#include "parallel/automatic.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

// The order of passes; exits, messages and what else belongs to a step come later.
Schedule generate(std::string_view name, const Layout& layout) {
  if (!layout.learns()) return forward_only(layout);
  if (!layout.reach.empty() && name != "1f1b")
    throw std::invalid_argument(fmt::format("schedule {} has no place for partial microbatches", name));
  if (name == "gpipe") return gpipe(layout);
  if (name == "1f1b") return one_f_one_b(layout);
  if (name == "interleaved") return interleaved(layout);
  if (name == "zero_bubble") return zero_bubble(layout);
  throw std::invalid_argument(
      fmt::format("no schedule is called '{}'; there are gpipe, 1f1b, interleaved, zero_bubble, exits_only and auto", name));
}

Schedule passes_of(std::string_view name, const Layout& layout) {
  Schedule schedule = generate(name, layout);
  return name == "zero_bubble" ? schedule : place_weight_gradients(std::move(schedule), layout);
}

bool places_by_time(const ScheduleOptions& options, const Layout& layout) {
  return options.placement == Placement::automatic && layout.learns();
}

// What comes between the passes is woven in by the list scheduler where it must know times, or depends on other ranks. With several
// stages a rank, or partial microbatches, when to post a receive does too.
bool weaves(const ScheduleOptions& options, const Layout& layout) {
  const bool partial =
      !layout.reach.empty() || std::ranges::any_of(layout.passes, [&](const PassPlace& pass) { return pass.last < layout.stages - 1; });
  return layout.split_heads || layout.stages > layout.ranks || (layout.learns() && partial) || places_by_time(options, layout);
}

Schedule weave(const ScheduleOptions& options, const Layout& layout) {
  Schedule passes = passes_of(options.name, layout);
  if (!layout.split_heads && !places_by_time(options, layout)) passes = place_exits(std::move(passes), layout, options.placement);
  return woven_schedule(options, layout, place_recompute(std::move(passes), layout));
}

Schedule complete(Schedule schedule, const Layout& layout, Placement placement) {
  schedule = place_exits(std::move(schedule), layout, placement);
  schedule = place_recompute(std::move(schedule), layout);
  schedule = split_last_backward(std::move(schedule), layout);
  return add_communication(std::move(schedule), layout);
}

}  // namespace

bool splits_backward(std::string_view name) { return name == "zero_bubble" || name == "auto"; }

double nominal_times(const Action& action) {
  switch (action.op) {
    case Op::Backward:
      return 2;
    case Op::Exit:
      return 1.5;
    case Op::Forward:
    case Op::Recompute:
    case Op::WeightGrad:
      return 1;
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
      return 0.125;
    default:
      return 0;
  }
}

Schedule build_schedule(const ScheduleOptions& options, const Layout& layout) {
  if (options.file && layout.learns())
    return complete_schedule(*options.file, layout, options.times ? options.times : Times(nominal_times));
  if (options.name == "auto" && layout.learns()) return automatic_schedule(options, layout);
  if (weaves(options, layout)) return weave(options, layout);
  return complete(passes_of(options.name, layout), layout, options.placement);
}

Program build_program(const ScheduleOptions& options, const Layout& layout, int rank) {
  const auto mine = static_cast<std::size_t>(rank);
  const bool made_whole = layout.learns() && (options.name == "auto" || options.file);
  if (made_whole || weaves(options, layout)) return build_schedule(options, layout)[mine];
  Schedule passes = passes_of(options.name, layout);
  for (std::size_t r = 0; r < passes.size(); ++r)
    if (r != mine) passes[r].clear();
  return complete(std::move(passes), layout, options.placement)[mine];
}

}  // namespace offramp
