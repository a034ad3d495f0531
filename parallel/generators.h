// Schedules by name. Generators emit F, B and W only; passes add the rest. All are pure functions; build_schedule() composes them.
#pragma once
#include <memory>

#include "parallel/list_schedule.h"
#include "parallel/memory_limit.h"
#include "parallel/schedule_file.h"

namespace offramp {

Schedule gpipe(const Layout& layout);  // all forwards, then all backwards (Huang et al., 2019)
// PipeDream-flush: at most P - i microbatches in flight on stage i, but for the last stage `more` than that.
Schedule one_f_one_b(const Layout& layout, int more = 0);
// The same of passes that end on different stages: no stage keeps more, but they overtake each other. A pass that ends early comes there
// when there is room beside those that go on; in the order of microbatches it would take one's place, and the last stages waited. A frozen
// teacher's has the place of one whose backward takes no time: so it comes before whatever waits for it.
Schedule turning_one_f_one_b(const Layout& layout);
Schedule interleaved(const Layout& layout);   // several stages a rank, microbatches in groups of P (Narayanan et al., 2021)
Schedule zero_bubble(const Layout& layout);   // ZB-H1: weight gradients fill the gaps at 1F1B's memory (Qi et al., 2023)
Schedule forward_only(const Layout& layout);  // evaluation, and a frozen backbone whose exits learn

enum class Placement { after_forward, before_backward, automatic };
// Inserts every exit's action: right after its stage's forward, or right before its backward (shorter memory).
Schedule place_exits(Schedule schedule, const Layout& layout, Placement placement);
// Where backwards are split and a generator leaves W out: W right after its B.
Schedule place_weight_gradients(Schedule schedule, const Layout& layout);
// R right before its backward, where a stage recomputes.
Schedule place_recompute(Schedule schedule, const Layout& layout);
// B7@0 -> B7.0@0 B7.1@0 B7.2@0, a segment a gradient bucket, in the order in which they run; with split backwards W7@0.
Schedule split_last_backward(Schedule schedule, const Layout& layout);
// Adds messages, tie reductions, and bucket reductions as early as their data exists. Receives are posted one compute action ahead,
// or where times are known before their message sets out.
Schedule add_communication(Schedule schedule, const Layout& layout);
Schedule add_communication(const Placed& placed, const Layout& layout, const ActionGraph& graph);
// Throws InvalidSchedule that says which rule is broken and shows the program with the stuck action marked. Sends are treated
// as rendezvous: a schedule that passes cannot deadlock, however little a transport buffers.
void validate(const Schedule& schedule, const Layout& layout);

struct ScheduleOptions {
  std::string name = "1f1b";                 // gpipe | 1f1b | interleaved | zero_bubble | exits_only | auto
  std::shared_ptr<const ScheduleFile> file;  // given: training's schedule is this one
  Placement placement = Placement::before_backward;
  Times times;         // for auto, automatic placement and split heads; empty: nominal_times
  Limits limits;       // for auto
  MemoryLimit memory;  // for auto and automatic placement, which exceed it as little as they can; others know no limit
  int trials = 4000;   // schedules that auto tries at most
};
// Whether the schedule of this name splits backwards into B and W.
bool splits_backward(std::string_view name);
// In units of a stage's forward: backward 2, an exit 1.5.
double nominal_times(const Action& action);

// For a layout without backward, forward_only. Throws std::invalid_argument on another name, or a layout that the name cannot serve.
Schedule build_schedule(const ScheduleOptions& options, const Layout& layout);
// Only this rank's program of it.
Program build_program(const ScheduleOptions& options, const Layout& layout, int rank);
inline Schedule build_schedule(std::string_view name, const Layout& layout, Placement placement = Placement::before_backward) {
  return build_schedule({.name = std::string(name), .placement = placement}, layout);
}
inline Program build_program(std::string_view name, const Layout& layout, int rank, Placement placement = Placement::before_backward) {
  return build_program({.name = std::string(name), .placement = placement}, layout, rank);
}

}  // namespace offramp
