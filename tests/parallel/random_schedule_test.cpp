// Thousands of layouts, their actions in random order: nothing stalls, leaks, or adds up in another order.
#include <gtest/gtest.h>

#include <deque>

#include "action_checker.h"
#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/simulate.h"

namespace offramp {
namespace {

using test::ActionChecker;
using test::coin;
using test::pick;
using test::Random;

constexpr int kTrials = 1500;

Placement random_placement(Random& random) {
  const std::array all = {Placement::after_forward, Placement::before_backward, Placement::automatic};
  return all[static_cast<std::size_t>(pick(random, 0, 2))];
}

// Any schedule that serves the layout, with times that differ from action to action.
Schedule random_schedule(const Layout& layout, Random& random) {
  ScheduleOptions options{.name = coin(random) ? "gpipe" : "auto", .placement = random_placement(random), .trials = 3};
  const bool multiple = layout.stages > layout.ranks && layout.stages % layout.ranks == 0 && layout.microbatches % layout.ranks == 0;
  if (layout.stages == layout.ranks && coin(random)) options.name = layout.split_backward && coin(random) ? "zero_bubble" : "1f1b";
  if (multiple && coin(random)) options.name = "interleaved";
  if (!layout.reach.empty()) options.name = "auto";
  std::array<double, kOps> seconds{};
  for (double& s : seconds) s = pick(random, 0, 9);
  options.times = [seconds](const Action& a) { return seconds[static_cast<std::size_t>(a.op)] * (1 + a.stage % 3); };
  if (coin(random)) options.limits.in_flight.assign(static_cast<std::size_t>(layout.stages), layout.stages + layout.microbatches);
  return build_schedule(options, layout);
}

// Ranks that each run their program, in turns drawn by chance, under the rules of dependencies() and, for some of the sends, of a
// transport that buffers nothing.
class Ranks {
 public:
  Ranks(const Schedule& schedule, const Layout& layout, Random& random)
      : schedule_(schedule), layout_(layout), random_(random), next_(schedule.size(), 0), rendezvous_(pick(random, 0, 2)) {}

  void run() {
    ActionChecker checker(layout_);
    std::vector<std::size_t> candidates;
    for (;;) {
      candidates.clear();
      for (std::size_t r = 0; r < schedule_.size(); ++r) {
        if (next_[r] < schedule_[r].size() && may_run(schedule_[r][next_[r]])) candidates.push_back(r);
      }
      if (candidates.empty()) break;
      const std::size_t r = candidates[random_() % candidates.size()];
      const Action& action = schedule_[r][next_[r]++];
      ASSERT_EQ(checker.run(action), "") << to_text(schedule_);
      done_.insert(action);
    }
    for (std::size_t r = 0; r < schedule_.size(); ++r)
      ASSERT_EQ(next_[r], schedule_[r].size()) << "rank " << r << "\n" << to_text(schedule_);
    ASSERT_TRUE(checker.holds_nothing()) << to_text(schedule_);
    if (layout_.ranks == layout_.stages) compare_peaks(checker);
  }

 private:
  bool may_run(const Action& action) {
    for (const Action& needed : dependencies(action, layout_)) {
      if (done_.count(needed) == 0) return false;
    }
    if (action.op == Op::ReduceTied) return true;  // both sides meet in it
    const std::vector<Action> partners = partners_of(action, layout_);
    if (std::ranges::all_of(partners, [&](const Action& partner) { return done_.count(partner) == 1; })) return true;
    return rendezvous_ == 0 || (rendezvous_ == 1 && coin(random_));
  }

  void compare_peaks(const ActionChecker& checker) const {
    const std::vector<SlabCounts> peaks = peak_slabs(schedule_, layout_);
    for (int r = 0; r < layout_.ranks; ++r) {
      for (int kind = 0; kind < kHolds; ++kind) {
        ASSERT_EQ(checker.peak(r, kind), peaks[static_cast<std::size_t>(r)][static_cast<std::size_t>(kind)])
            << name_of(Hold(kind)) << " on rank " << r << "\n"
            << to_text(schedule_);
      }
    }
  }

  const Schedule& schedule_;
  const Layout& layout_;
  Random& random_;
  std::vector<std::size_t> next_;
  int rendezvous_;  // 0 no send, 1 some, 2 all
  std::set<Action> done_;
};

TEST(RandomSchedules, ValidateAndRunInAnyOrderOfRanks) {
  Random random(3);
  for (int trial = 0; trial < kTrials; ++trial) {
    const Layout layout = test::random_layout(random, trial % 4 == 0 ? pick(random, 2, 4) : 0);
    const Schedule schedule = random_schedule(layout, random);
    ASSERT_NO_THROW(validate(schedule, layout)) << to_text(schedule);
    Ranks(schedule, layout, random).run();
    if (HasFatalFailure()) return;
  }
}

// All actions in an order drawn by chance in which only dependencies() is kept.
std::vector<Action> random_order(const Layout& layout, Random& random) {
  const std::vector<Action> actions = actions_of(layout);
  std::map<Action, std::vector<Action>> followers;
  std::map<Action, std::size_t> missing;
  std::vector<Action> ready, order;
  for (const Action& action : actions) {
    const std::vector<Action> needs = dependencies(action, layout);
    for (const Action& needed : needs) followers[needed].push_back(action);
    missing[action] = needs.size();
    if (needs.empty()) ready.push_back(action);
  }
  while (!ready.empty()) {
    std::swap(ready[random() % ready.size()], ready.back());
    const Action action = ready.back();
    ready.pop_back();
    order.push_back(action);
    for (const Action& follower : followers[action]) {
      if (--missing[follower] == 0) ready.push_back(follower);
    }
  }
  return order;
}

TEST(RandomSchedules, NeedNoProgramOrder) {
  Random random(4);
  for (int trial = 0; trial < kTrials; ++trial) {
    // Also several stages a rank: what actions mean does not depend on the generators.
    const Layout layout = test::random_layout(random, trial % 2 == 0 ? 0 : pick(random, 2, 4));
    const std::vector<Action> order = random_order(layout, random);
    ASSERT_EQ(order.size(), actions_of(layout).size()) << "dependencies go in a circle";
    ActionChecker checker(layout);
    for (const Action& action : order) ASSERT_EQ(checker.run(action), "") << to_text(order);
    ASSERT_TRUE(checker.holds_nothing());
  }
}

}  // namespace
}  // namespace offramp
