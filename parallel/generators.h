// Schedules by name. Generators emit F and B only; passes add the rest. All are pure functions; build_schedule() composes them.
#pragma once
#include "parallel/schedule.h"

namespace offramp {

Schedule gpipe(const Layout& layout);         // all forwards, then all backwards (Huang et al., 2019)
Schedule one_f_one_b(const Layout& layout);   // PipeDream-flush: at most P - i microbatches in flight on stage i
Schedule forward_only(const Layout& layout);  // evaluation

enum class Placement { after_forward, before_backward };
// Inserts every exit's action: right after its stage's forward, or right before its backward (shorter memory).
Schedule place_exits(Schedule schedule, const Layout& layout, Placement placement);
// B7@0 -> B7.0@0 B7.1@0 B7.2@0, a segment a gradient bucket, in the order in which they run.
Schedule split_last_backward(Schedule schedule, const Layout& layout);
// Adds messages (receives are posted one compute action ahead), tie reductions, and bucket reductions as early as their data exists.
Schedule add_communication(Schedule schedule, const Layout& layout);
// Throws std::runtime_error that says which rule is broken and shows the program with the stuck action marked. Sends are treated
// as rendezvous: a schedule that passes cannot deadlock, however little a transport buffers.
void validate(const Schedule& schedule, const Layout& layout);

// "gpipe", "1f1b"; for a layout without backward, forward_only. Throws std::invalid_argument on another name.
Schedule build_schedule(std::string_view name, const Layout& layout, Placement placement = Placement::before_backward);
// Only this rank's program of it.
Program build_program(std::string_view name, const Layout& layout, int rank, Placement placement = Placement::before_backward);

}  // namespace offramp
