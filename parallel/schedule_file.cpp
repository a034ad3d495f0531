#include "parallel/schedule_file.h"

#include <algorithm>
#include <limits>

#include "parallel/execution.h"
#include "parallel/generators.h"
#include "tensor/check.h"

namespace offramp {
namespace {

bool has(const Schedule& schedule, bool (*wanted)(Op)) {
  return std::ranges::any_of(schedule, [&](const Program& program) {
    return std::ranges::any_of(program, [&](const Action& action) { return wanted(action.op); });
  });
}

// Why an action is none of this job's.
std::string why_not(const Action& action, const Layout& layout) {
  const int exits = static_cast<int>(layout.exits.size());
  const bool of_exit = action.op == Op::Exit || is_head(action.op);
  const bool cut = (action.op == Op::Backward || action.op == Op::WeightGrad) && action.microbatch < layout.microbatches;
  if (action.stage >= layout.stages) return fmt::format("the job has {} stages (pipeline_parallel_size)", layout.stages);
  if (action.microbatch >= layout.microbatches)
    return fmt::format("the job has {} microbatches a step, global_batch_size / (micro_batch_size x data_parallel_size)",
                       layout.microbatches);
  if (of_exit && action.index >= exits) return fmt::format("the job has {} exits, of which the last is the final head", exits);
  if (of_exit && is_head(action.op) != layout.split_heads)
    return layout.split_heads ? "heads are split over the pipeline" : "heads are not split over the pipeline";
  if (action.op == Op::Exit) return fmt::format("this exit is on stage {}", layout.exits[static_cast<std::size_t>(action.index)].stage);
  if (action.op == Op::Recompute) return "nothing is made again unless parallel.recompute is full";
  if (action.op == Op::WeightGrad && !layout.split_backward) return "backwards are not split";
  if (cut && action.index < 0) return fmt::format("this one is cut into {} segments", layout.segments_of(action.stage));
  if (cut) return fmt::format("this one is not cut at {}; without messages in the file nothing is, leave it to the program", action.index);
  return "the job sums nothing of this number";
}

std::string hint_of(const InvalidSchedule& error, const Schedule& schedule, const Layout& layout) {
  if (error.marks.empty()) return fmt::format("write a line for each of the {} pipeline ranks", layout.ranks);
  if (error.missing) {
    if (error.missing->op == Op::WeightGrad) return "where one backward leaves its weight gradients to a W, all do";
    return computes(error.missing->op) ? "add it" : "add it, or leave all messages and sums to the program: only F, R, X, B, W";
  }
  const Mark& mark = error.marks.front();
  const Program& program = schedule[static_cast<std::size_t>(mark.rank)];
  if (mark.position < program.size() && !exists(program[mark.position], layout)) return why_not(program[mark.position], layout);
  return "";
}

// The mark's line; of what is missing at its end, the end of the line.
TextPlace place_of(const InvalidSchedule& error, const ScheduleFile& file) {
  if (error.marks.empty()) return {};
  const Mark& mark = error.marks.front();
  const std::vector<TextPlace>& line = file.places[static_cast<std::size_t>(mark.rank)];
  return line[std::min(mark.position, line.size() - 1)];
}

[[noreturn]] void refuse(const InvalidSchedule& error, const ScheduleFile& file, const Layout& layout) {
  const std::string what = error.what(), hint = hint_of(error, file.schedule, layout);
  const std::size_t end = std::min(what.find('\n'), what.size());
  const TextPlace at = place_of(error, file);
  fail(Exit::configuration, "{}:{}:{}: {}{}{}", file.path, at.line, at.column, what.substr(0, end), hint.empty() ? "" : ": " + hint,
       what.substr(end));
}

Schedule with_messages(const ScheduleFile& file, const Layout& layout, const Times& times) {
  const ActionGraph graph(layout, times, {.in_flight = {}, .head_slices = 0});
  try {
    check_actions(file.schedule, graph.layout(), computes);
    const Urgency none{.of = std::vector<double>(graph.nodes().size(), 0.0)};
    return add_communication(list_schedule(graph, none, file.schedule), layout, graph);
  } catch (const InvalidSchedule& error) {
    refuse(error, file, graph.layout());
  }
}

}  // namespace

bool ScheduleFile::splits_backward() const {
  return has(schedule, [](Op op) { return op == Op::WeightGrad; });
}
bool ScheduleFile::has_messages() const {
  return has(schedule, [](Op op) { return !computes(op); });
}

Schedule complete_schedule(const ScheduleFile& file, const Layout& layout, const Times& times) {
  check_layout(layout);
  if (!file.has_messages()) {
    Schedule schedule = with_messages(file, layout, times);
    validate(schedule, layout);
    return schedule;
  }
  try {
    validate(file.schedule, layout);
    return file.schedule;
  } catch (const InvalidSchedule& error) {
    refuse(error, file, layout);
  }
}

}  // namespace offramp
