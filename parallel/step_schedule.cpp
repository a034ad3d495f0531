#include "parallel/step_schedule.h"

#include "parallel/work.h"
#include "tensor/check.h"

namespace offramp {

namespace {

void add_partial(Layout& layout, const MachineOptions& options) {
  FillOptions fill{.fill = options.fill_bubbles, .partial = options.partial_microbatches};
  if (options.recompute == "full") ++fill.ratio;
  if (fill.partial == 0) fill.partial = gap_microbatches(layout.stages, fill.ratio);
  layout.reach = filled_reach(fill, layout);
  if (layout.reach.size() == static_cast<std::size_t>(layout.microbatches))
    fail(Exit::configuration,
         "parallel.fill_bubbles: no partial microbatch of the warm-up meets an exit: it comes as far as stage {} of {} (from 0), "
         "put an exit there, or take cooldown",
         fill.partial - 1, layout.stages);
  layout.microbatches = static_cast<int>(layout.reach.size());
}

}  // namespace

bool splits_backward(const MachineOptions& options) {
  if (options.schedule_file) return options.schedule_file->splits_backward();
  return splits_backward(options.schedule) && !options.whole_backwards;
}

Layout step_layout(const MachineOptions& options, Holdings& held, int microbatches, bool backward, const std::vector<Pass>& passes) {
  Layout layout = make_layout(held.model, held.partition, held.ties,
                              {.microbatches = microbatches,
                               .stages_per_rank = options.virtual_stages,
                               .backward = backward,
                               .reduce = held.reduces(),
                               .bucket_elements = options.bucket_elements,
                               .passes = passes});
  layout.split_backward = backward && splits_backward(options);
  if (backward && options.recompute == "full") layout.recompute.assign(static_cast<std::size_t>(layout.stages), true);
  if (backward && options.fill_bubbles != Fill::none) add_partial(layout, options);
  return layout;
}

std::vector<Subnet> subnets_of(const std::vector<Pass>& passes) {
  std::vector<Subnet> subnets;
  for (const Pass& pass : passes) subnets.push_back(pass.subnet);
  return subnets;
}

ScheduleOptions step_schedule(const MachineOptions& options, Holdings& held, const Layout& layout, const std::vector<Pass>& passes) {
  ScheduleOptions made{.name = options.schedule, .file = options.schedule_file};
  made.placement = options.exit_placement == "after_forward"     ? Placement::after_forward
                   : options.exit_placement == "before_backward" ? Placement::before_backward
                                                                 : Placement::automatic;
  made.limits = parse_in_flight(options.in_flight, layout);
  made.times = work_times(held.model, held.partition, layout,
                          {.micro_batch_size = options.micro_batch_size,
                           .sequence_length = options.sequence_length,
                           .attention_again = options.recompute == "selective",
                           .passes = subnets_of(passes)});
  return made;
}

}  // namespace offramp
