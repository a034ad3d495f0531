// Which exits read what: answers about a Layout's exits that dependencies and lifetimes both need (internal to parallel/).
#pragma once
#include "parallel/schedule.h"

namespace offramp {

inline const ExitPlace& exit_at(const Layout& layout, int index) { return layout.exits[static_cast<std::size_t>(index)]; }
inline int exit_count(const Layout& layout) { return static_cast<int>(layout.exits.size()); }

// The last stage sends nothing on, so there a tap at the output is a tap like others.
inline bool reads_output(const ExitPlace& exit, const Layout& layout) { return exit.at_output && exit.stage < layout.stages - 1; }
// Of the exits that a microbatch meets:
bool output_is_tapped(int stage, int microbatch, const Layout& layout);
bool is_first_of_tap(int index, int microbatch, const Layout& layout);
bool is_last_of_tap(int index, int microbatch, const Layout& layout);
// The highest exit below `end` on this stage, or -1.
int last_exit_before(int end, int stage, int microbatch, const Layout& layout);
inline int last_exit_of(int stage, int microbatch, const Layout& layout) {
  return last_exit_before(exit_count(layout), stage, microbatch, layout);
}

// An exit of a microbatch; -1: there is none.
struct Met {
  int microbatch = -1, exit = -1;
  bool operator==(const Met&) const = default;
};
Met met_before(Met exit, int stage, const Layout& layout);  // of a stage, the one before in (microbatch, exit) order
Met last_met(int stage, const Layout& layout);
// The first and the last on a stage that this microbatch's final head teaches.
Met first_taught(int stage, int teacher, const Layout& layout);
Met last_taught(int stage, int teacher, const Layout& layout);
// Whether a stage sends what the final head reads of a microbatch, or gets it.
bool shares_final(int stage, int microbatch, const Layout& layout);
// The action that reads an exit's tap, and the one after which its gradients are complete but for the output matrix.
inline Op reader_of_tap(const Layout& layout) { return layout.split_heads ? Op::Tap : Op::Exit; }
inline Op end_of_exit(const Layout& layout) { return layout.split_heads ? Op::Untap : Op::Exit; }

}  // namespace offramp
