#include "parallel/taps.h"

#include <algorithm>

namespace offramp {
namespace {

bool same_tap(const ExitPlace& a, const ExitPlace& b, const Layout& layout) {
  if (a.stage != b.stage) return false;
  return reads_output(a, layout) || reads_output(b, layout) ? reads_output(a, layout) && reads_output(b, layout) : a.tap == b.tap;
}

}  // namespace

bool output_is_tapped(int stage, const Layout& layout) {
  return std::ranges::any_of(layout.exits, [&](const ExitPlace& exit) { return exit.stage == stage && reads_output(exit, layout); });
}

bool is_first_of_tap(int index, const Layout& layout) {
  for (int e = 0; e < index; ++e)
    if (same_tap(exit_at(layout, e), exit_at(layout, index), layout)) return false;
  return true;
}

bool is_last_of_tap(int index, const Layout& layout) {
  for (int e = index + 1; e < exit_count(layout); ++e)
    if (same_tap(exit_at(layout, e), exit_at(layout, index), layout)) return false;
  return true;
}

int last_exit_before(int end, int stage, const Layout& layout) {
  for (int e = end - 1; e >= 0; --e)
    if (exit_at(layout, e).stage == stage) return e;
  return -1;
}

bool shares_final(int stage, const Layout& layout) {
  if (!layout.taught) return false;
  if (stage < layout.stages - 1) return last_exit_of(stage, layout) >= 0;
  return std::ranges::any_of(layout.exits, [&](const ExitPlace& exit) { return exit.stage < stage; });
}

}  // namespace offramp
