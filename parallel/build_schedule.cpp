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
  if (name == "1f1b") return layout.passes.empty() ? one_f_one_b(layout) : turning_one_f_one_b(layout);
  if (name == "interleaved") return interleaved(layout);
  if (name == "zero_bubble") return zero_bubble(layout);
  throw std::invalid_argument(
      fmt::format("no schedule is called '{}'; there are gpipe, 1f1b, interleaved, zero_bubble, exits_only and auto", name));
}

// How many more passes a stage may keep than 1F1B does: they take different times, and it waits less for others that take longer.
int more_of_passes(const ScheduleOptions& options, const Layout& layout) {
  if (options.name != "1f1b" || layout.passes.empty() || !layout.learns() || options.limits.in_flight.empty()) return 0;
  return std::max(0, options.limits.in_flight.front() - layout.stages);
}

// Several only where they are woven, and the shortest is taken.
std::vector<Schedule> orders_of(const ScheduleOptions& options, const Layout& layout) {
  std::vector<Schedule> orders{generate(options.name, layout)};
  if (const int more = more_of_passes(options, layout); more > 0) orders.push_back(one_f_one_b(layout, more));
  for (Schedule& order : orders)
    if (options.name != "zero_bubble") order = place_weight_gradients(std::move(order), layout);
  return orders;
}

bool places_by_time(const ScheduleOptions& options, const Layout& layout) {
  return options.placement == Placement::automatic && layout.learns();
}

// What comes between the passes is woven in by the list scheduler where it must know times, or depends on other ranks. With several
// stages a rank, partial microbatches, or stages that run further ahead, when to post a receive does too.
bool weaves(const ScheduleOptions& options, const Layout& layout) {
  const auto ends_early = [&](const PassPlace& pass) { return pass.last < layout.stages - 1 || !pass.back; };
  const bool partial = !layout.reach.empty() || std::ranges::any_of(layout.passes, ends_early);
  const bool apart = (layout.learns() && partial) || more_of_passes(options, layout) > 0;
  return layout.split_heads || layout.stages > layout.ranks || apart || places_by_time(options, layout);
}

Schedule weave(const ScheduleOptions& options, const Layout& layout) {
  std::vector<Schedule> orders = orders_of(options, layout);
  for (Schedule& order : orders) {
    if (!layout.split_heads && !places_by_time(options, layout)) order = place_exits(std::move(order), layout, options.placement);
    order = place_recompute(std::move(order), layout);
  }
  return woven_schedule(options, layout, orders);
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
  return complete(orders_of(options, layout).front(), layout, options.placement);
}

Program build_program(const ScheduleOptions& options, const Layout& layout, int rank) {
  const auto mine = static_cast<std::size_t>(rank);
  const bool made_whole = layout.learns() && (options.name == "auto" || options.file);
  if (made_whole || weaves(options, layout)) return build_schedule(options, layout)[mine];
  Schedule passes = orders_of(options, layout).front();
  for (std::size_t r = 0; r < passes.size(); ++r)
    if (r != mine) passes[r].clear();
  return complete(std::move(passes), layout, options.placement)[mine];
}

}  // namespace offramp
