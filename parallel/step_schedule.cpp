#include "parallel/step_schedule.h"

#include "parallel/work.h"

namespace offramp {

bool splits_backward(const MachineOptions& options) {
  if (options.schedule_file) return options.schedule_file->splits_backward();
  return splits_backward(options.schedule) && !options.whole_backwards;
}

Layout step_layout(const MachineOptions& options, Holdings& held, int microbatches, bool backward) {
  Layout layout = make_layout(held.model, held.partition, held.ties,
                              {.microbatches = microbatches,
                               .stages_per_rank = options.virtual_stages,
                               .backward = backward,
                               .reduce = held.reduces(),
                               .bucket_elements = options.bucket_elements});
  layout.split_backward = backward && splits_backward(options);
  if (backward && options.recompute == "full") layout.recompute.assign(static_cast<std::size_t>(layout.stages), true);
  return layout;
}

ScheduleOptions step_schedule(const MachineOptions& options, Holdings& held, const Layout& layout) {
  ScheduleOptions made{.name = options.schedule, .file = options.schedule_file};
  made.placement = options.exit_placement == "after_forward"     ? Placement::after_forward
                   : options.exit_placement == "before_backward" ? Placement::before_backward
                                                                 : Placement::automatic;
  made.limits = parse_in_flight(options.in_flight, layout);
  made.times = work_times(held.model, held.partition, layout, options.micro_batch_size, options.sequence_length);
  return made;
}

}  // namespace offramp
