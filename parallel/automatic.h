// Schedules that are searched with the times of actions (internal to parallel/).
#pragma once
#include "parallel/generators.h"

namespace offramp {

// Of the given orders of passes, with exits, or the parts of split heads, where the list scheduler puts them, the shortest.
Schedule woven_schedule(const ScheduleOptions& options, const Layout& layout, const std::vector<Schedule>& orders);

// `schedule: auto`: the best of some list schedules, and of the named schedules that keep no more in flight.
Schedule automatic_schedule(const ScheduleOptions& options, const Layout& layout);

}  // namespace offramp
