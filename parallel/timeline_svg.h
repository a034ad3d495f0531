// A timeline as a picture: a row a pipeline rank, time to the right, exits in the one warm colour, so that a reader sees at a
// glance where they went; passes over the same samples in shades of their own. Text stays text; there are no scripts and no fonts of its
// own; equal timelines give equal bytes.
//
//   write_file("schedule.svg", timeline_svg(simulate(schedule, layout, times), {.title = "1f1b"}));
#pragma once
#include "parallel/simulate.h"

namespace offramp {

// Of several passes over the same samples: what stands in a box behind the number of its samples, and what the legend says.
struct PassName {
  char letter = 'W';
  std::string text;
};
struct PictureOptions {
  std::string title;
  std::string unit = {};              // what one second of the timeline is called; empty: seconds, as s, ms or us
  double begin = 0, end = 0;          // which part of the time; end 0: all of it, of long schedules the beginning and the end
  int width = 1200;                   // pixels
  int rows = 64;                      // ranks drawn at most
  std::vector<PassName> passes = {};  // in the layout's order, told apart by shade and letter; of several stages a rank there are none
  bool ends_with_head = true;         // the last exit is the final head, and looks different from early ones
};
std::string timeline_svg(const Timeline& timeline, const PictureOptions& options);

}  // namespace offramp
