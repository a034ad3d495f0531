// A schedule that somebody wrote: for each pipeline rank a line of actions (parallel/schedule.h), and # before a comment. Either all
// actions of a step, as `offramp plan --dump-schedule` prints them, or only those that compute: then messages, sums and the cuts of last
// backwards are added. Backwards are split where the file has a W.
//
//   const ScheduleFile file = parse_schedule_file("mine.txt", text);
//   const Schedule schedule = complete_schedule(file, layout, times);
//
// Both throw Error(Exit::configuration): "mine.txt:2:14: rank 1: F3@1 is there twice", and what to change.
#pragma once
#include "parallel/simulate.h"

namespace offramp {

struct TextPlace {
  int line = 1, column = 1;
};
struct ScheduleFile {
  std::string path;
  Schedule schedule;
  std::vector<std::vector<TextPlace>> places;  // of each action

  bool splits_backward() const;
  bool has_messages() const;
};

ScheduleFile parse_schedule_file(const std::string& path, std::string_view text);

// What stands in the file is kept in its order; the schedule was validated. With times, what is added knows what comes first.
Schedule complete_schedule(const ScheduleFile& file, const Layout& layout, const Times& times);

}  // namespace offramp
