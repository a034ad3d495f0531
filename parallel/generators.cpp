#include "parallel/generators.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "parallel/actions.h"

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

Schedule generate(std::string_view name, const Layout& layout) {
  if (name != "gpipe" && name != "1f1b") {
    throw std::invalid_argument(fmt::format("no schedule is called '{}'; there are gpipe and 1f1b", name));
  }
  return !layout.backward ? forward_only(layout) : name == "gpipe" ? gpipe(layout) : one_f_one_b(layout);
}

Schedule complete(Schedule schedule, const Layout& layout, Placement placement) {
  schedule = place_exits(std::move(schedule), layout, placement);
  schedule = split_last_backward(std::move(schedule), layout);
  return add_communication(std::move(schedule), layout);
}

}  // namespace

Schedule gpipe(const Layout& layout) {
  need_a_stage_a_rank("gpipe", layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) {
    Program& program = schedule[static_cast<std::size_t>(s)];
    append(program, Op::Forward, s, 0, layout.microbatches);
    append(program, Op::Backward, s, 0, layout.microbatches);
  }
  return schedule;
}

Schedule one_f_one_b(const Layout& layout) {
  need_a_stage_a_rank("1f1b", layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) {
    Program& program = schedule[static_cast<std::size_t>(s)];
    const int ahead = std::min(layout.stages - s - 1, layout.microbatches);
    append(program, Op::Forward, s, 0, ahead);
    for (int m = ahead; m < layout.microbatches; ++m) {
      program.push_back(make_action(Op::Forward, s, m));
      program.push_back(make_action(Op::Backward, s, m - ahead));
    }
    append(program, Op::Backward, s, layout.microbatches - ahead, layout.microbatches);
  }
  return schedule;
}

Schedule forward_only(const Layout& layout) {
  need_a_stage_a_rank("forward_only", layout);
  Schedule schedule(static_cast<std::size_t>(layout.ranks));
  for (int s = 0; s < layout.stages; ++s) append(schedule[static_cast<std::size_t>(s)], Op::Forward, s, 0, layout.microbatches);
  return schedule;
}

Schedule build_schedule(std::string_view name, const Layout& layout, Placement placement) {
  return complete(generate(name, layout), layout, placement);
}

Program build_program(std::string_view name, const Layout& layout, int rank, Placement placement) {
  Schedule schedule = generate(name, layout);
  for (int r = 0; r < layout.ranks; ++r)
    if (r != rank) schedule[static_cast<std::size_t>(r)].clear();
  return complete(std::move(schedule), layout, placement)[static_cast<std::size_t>(rank)];
}

}  // namespace offramp
