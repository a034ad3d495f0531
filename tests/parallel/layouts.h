// Layouts for tests: the plain one, and random ones that meet every rule of the schedule.
#pragma once
#include <algorithm>
#include <random>

#include "parallel/schedule.h"

namespace offramp::test {

inline Layout plain_layout(int stages, int microbatches) {
  Layout layout;
  layout.ranks = layout.stages = stages;
  layout.microbatches = microbatches;
  return layout;
}

using Random = std::mt19937_64;

inline int pick(Random& random, int low, int high) {  // both included
  return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
}
inline bool coin(Random& random) { return (random() >> 20) % 2 == 1; }

// Exits on any stages, several of them on one tap, some at the output, some detached.
inline void add_random_exits(Layout& layout, Random& random) {
  const bool last_has_one = coin(random);
  for (int s = 0; s < layout.stages; ++s) {
    const int taps = pick(random, 0, 2);
    for (int tap = 0; tap < taps; ++tap) {
      const bool at_output = tap == taps - 1 && coin(random);  // on the last stage it has no meaning
      for (int exits = pick(random, 1, 2); exits > 0; --exits) layout.exits.push_back({s, 10 * s + tap, at_output, pick(random, 0, 3) > 0});
    }
  }
  if (last_has_one) layout.exits.push_back({layout.stages - 1, 10 * layout.stages, false, true});
}

inline void add_random_ties(Layout& layout, Random& random) {
  for (int ties = pick(random, 0, 3); ties > 0; --ties) {
    std::vector<int> holders;
    for (int s = layout.stages - 1; s >= 0; --s) {
      if (pick(random, 0, 2) == 0) holders.push_back(s);
    }
    if (holders.empty()) holders.push_back(pick(random, 0, layout.stages - 1));
    layout.ties.push_back(holders);
  }
}

inline void add_random_buckets(Layout& layout, Random& random) {
  for (int s = 0; s < layout.stages; ++s) {
    std::vector<BucketPlace> buckets;
    for (int k = 0; k < layout.segments_of(s); ++k) {
      if (pick(random, 0, 3) > 0) buckets.push_back({.segment = k, .tie = -1});
    }
    for (std::size_t t = 0; t < layout.ties.size(); ++t) {
      if (std::ranges::count(layout.ties[t], s) == 1) buckets.push_back({.segment = -1, .tie = static_cast<int>(t)});
    }
    layout.buckets.push_back(buckets);
  }
}

// Several passes over the same samples: of all exits, and of one exit each, learning from the first's final head or not; and where the
// backbone learns, one before them that only teaches, and may do so in the place of that of all exits.
inline void add_random_passes(Layout& layout, Random& random) {
  const int exits = static_cast<int>(layout.exits.size());
  const bool may_teach = !layout.split_heads && layout.stages == layout.ranks;
  const auto stage_of = [&](int e) { return layout.exits[static_cast<std::size_t>(e)].stage; };
  if (exits == 0 || stage_of(exits - 1) != layout.stages - 1) return;
  const auto all = [&](ExitRole role) { return std::vector(static_cast<std::size_t>(exits), role); };
  const bool apart = layout.learns() && may_teach && coin(random), whole = !apart || coin(random);
  if (apart) layout.passes.push_back({.last = layout.stages - 1, .exits = all(ExitRole::absent), .teacher = -1, .back = false});
  if (whole) layout.passes.push_back({.last = layout.stages - 1, .exits = all(ExitRole::alone)});
  if (whole && may_teach && coin(random)) layout.passes.back().exits = all(ExitRole::taught), layout.passes.back().teacher = 0;
  for (int more = layout.frozen ? 0 : pick(random, whole ? 0 : 1, 3); more > 0; --more) {
    const int exit = pick(random, 0, exits - 1);
    PassPlace pass{.last = stage_of(exit), .exits = all(ExitRole::absent)};
    const bool taught = may_teach && coin(random);
    pass.exits[static_cast<std::size_t>(exit)] = taught ? ExitRole::taught : ExitRole::alone;
    pass.teacher = taught ? 0 : -1;
    layout.passes.push_back(pass);
  }
  const bool teaches = std::ranges::any_of(layout.passes, [](const PassPlace& pass) { return pass.teacher == 0; });
  if (!teaches && !layout.passes.front().back) layout.passes.erase(layout.passes.begin());
  layout.microbatches *= layout.pass_count();
}

// What else a layout may ask for, each in a third of the cases: split backwards, split heads, recompute, a frozen backbone, several
// passes, and microbatches that go part of the way.
inline void add_random_features(Layout& layout, Random& random) {
  const auto third = [&] { return pick(random, 0, 2) == 0; };
  layout.split_backward = third();
  layout.split_heads = third();
  layout.frozen = third() && coin(random);
  for (int s = 0; s < layout.stages && third(); ++s) layout.recompute.push_back(coin(random));
  layout.recompute.resize(layout.recompute.empty() ? 0 : static_cast<std::size_t>(layout.stages));
  for (ExitPlace& exit : layout.exits) exit.matrix = coin(random) ? 0 : -1;
  if (third()) add_random_passes(layout, random);
  if (!third() || layout.frozen || !layout.backward || !layout.passes.empty()) return;
  const int whole = pick(random, 0, layout.microbatches - 1);
  for (int m = 0; m < layout.microbatches; ++m) {
    Reach reach{0, layout.stages - 1};
    if (m < whole && coin(random)) reach.last = pick(random, 0, layout.stages - 1);
    if (m > whole && coin(random)) reach.first = pick(random, 0, layout.stages - 1);
    layout.reach.push_back(reach);
  }
}

// stages == ranks unless `ranks` says otherwise.
inline Layout random_layout(Random& random, int ranks = 0) {
  Layout layout = plain_layout(pick(random, ranks > 0 ? ranks : 1, 8), pick(random, 1, 12));
  if (ranks > 0) layout.ranks = ranks;
  layout.backward = pick(random, 0, 3) > 0;
  add_random_exits(layout, random);
  if (coin(random)) {
    for (int s = 0; s < layout.stages; ++s) layout.segments.push_back(pick(random, 1, 3));
  }
  add_random_ties(layout, random);
  if (coin(random)) add_random_buckets(layout, random);
  if (coin(random)) add_random_features(layout, random);
  return layout;
}

}  // namespace offramp::test
