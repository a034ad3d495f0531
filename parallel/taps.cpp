#include "parallel/taps.h"

#include <algorithm>

namespace offramp {
namespace {

bool same_tap(const ExitPlace& a, const ExitPlace& b, const Layout& layout) {
  if (a.stage != b.stage) return false;
  return reads_output(a, layout) || reads_output(b, layout) ? reads_output(a, layout) && reads_output(b, layout) : a.tap == b.tap;
}

// Of the exits [begin, end) that the microbatch meets, one reads the same as another exit.
bool some_read_same(int begin, int end, int index, int microbatch, const Layout& layout) {
  for (int e = begin; e < end; ++e)
    if (layout.meets(e, microbatch) && same_tap(exit_at(layout, e), exit_at(layout, index), layout)) return true;
  return false;
}

bool teaches(int teacher, int exit, int microbatch, const Layout& layout) {
  return layout.teacher_of(microbatch) == teacher && layout.role_of(exit, microbatch) == ExitRole::taught;
}

// Passes over the same samples follow each other.
int end_of_samples(int microbatch, const Layout& layout) { return microbatch - layout.pass_of(microbatch) + layout.pass_count(); }

}  // namespace

bool output_is_tapped(int stage, int microbatch, const Layout& layout) {
  for (int e = 0; e < exit_count(layout); ++e)
    if (exit_at(layout, e).stage == stage && reads_output(exit_at(layout, e), layout) && layout.meets(e, microbatch)) return true;
  return false;
}

bool is_first_of_tap(int index, int microbatch, const Layout& layout) { return !some_read_same(0, index, index, microbatch, layout); }

bool is_last_of_tap(int index, int microbatch, const Layout& layout) {
  return !some_read_same(index + 1, exit_count(layout), index, microbatch, layout);
}

int last_exit_before(int end, int stage, int microbatch, const Layout& layout) {
  for (int e = end - 1; e >= 0; --e)
    if (exit_at(layout, e).stage == stage && layout.meets(e, microbatch)) return e;
  return -1;
}

Met met_before(Met exit, int stage, const Layout& layout) {
  for (int m = exit.microbatch, end = exit.exit; m >= 0; --m, end = exit_count(layout))
    if (const int e = last_exit_before(end, stage, m, layout); e >= 0) return {m, e};
  return {};
}

Met last_met(int stage, const Layout& layout) { return met_before({layout.microbatches - 1, exit_count(layout)}, stage, layout); }

Met first_taught(int stage, int teacher, const Layout& layout) {
  for (int m = teacher; m < end_of_samples(teacher, layout); ++m)
    for (int e = 0; e < exit_count(layout); ++e)
      if (exit_at(layout, e).stage == stage && teaches(teacher, e, m, layout)) return {m, e};
  return {};
}

Met last_taught(int stage, int teacher, const Layout& layout) {
  for (int m = end_of_samples(teacher, layout) - 1; m >= teacher; --m)
    for (int e = exit_count(layout) - 1; e >= 0; --e)
      if (exit_at(layout, e).stage == stage && teaches(teacher, e, m, layout)) return {m, e};
  return {};
}

bool shares_final(int stage, int microbatch, const Layout& layout) {
  if (layout.passes.empty()) return false;
  if (stage < layout.stages - 1) return last_taught(stage, microbatch, layout) != Met{};
  for (int s = 0; s < stage; ++s)
    if (shares_final(s, microbatch, layout)) return true;
  return false;
}

}  // namespace offramp
