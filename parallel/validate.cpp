#include <fmt/format.h>

#include <map>
#include <unordered_set>

#include "parallel/actions.h"
#include "parallel/execution.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

[[noreturn]] void refuse(const Schedule& schedule, const std::vector<Mark>& marks, const std::string& why) {
  throw InvalidSchedule(why + "\n" + show(schedule, marks), marks);
}

void check_action(const Schedule& schedule, const Mark& mark, const Layout& layout) {
  const Action& action = schedule[static_cast<std::size_t>(mark.rank)][mark.position];
  if (!exists(action, layout)) {
    refuse(schedule, {mark}, fmt::format("rank {}: {} does not exist in this layout", mark.rank, to_text(action)));
  }
  if (const int rank = layout.rank_of(action.stage); rank != mark.rank) {
    refuse(schedule, {mark}, fmt::format("rank {}: {} belongs to rank {}", mark.rank, to_text(action), rank));
  }
}

// The k-th message sent over a boundary in a direction is the k-th that is received: channels carry no names.
class ChannelOrder {
 public:
  ChannelOrder(const Schedule& schedule, const Layout& layout) : schedule_(schedule), layout_(layout) {
    for (auto* marks : {&sends_, &receives_}) {
      for (auto& direction : *marks) direction.resize(static_cast<std::size_t>(layout.stages));
    }
  }

  void check() {
    collect();
    for (std::size_t direction = 0; direction < 2; ++direction) {
      for (std::size_t s = 0; s < static_cast<std::size_t>(layout_.stages); ++s) compare(sends_[direction][s], receives_[direction][s]);
    }
  }

 private:
  // By the stage that receives.
  using Marks = std::array<std::vector<std::vector<Mark>>, 2>;

  void collect() {
    for (std::size_t r = 0; r < schedule_.size(); ++r) {
      for (std::size_t i = 0; i < schedule_[r].size(); ++i) {
        const Action& action = schedule_[r][i];
        if (!is_send(action.op) && !is_receive(action.op)) continue;
        const Action receive = is_send(action.op) ? receive_of(action) : action;
        Marks& marks = is_send(action.op) ? sends_ : receives_;
        marks[receive.op == Op::RecvActivation ? 0 : 1][static_cast<std::size_t>(receive.stage)].push_back({static_cast<int>(r), i});
      }
    }
  }

  void compare(const std::vector<Mark>& sends, const std::vector<Mark>& receives) const {
    for (std::size_t k = 0; k < sends.size(); ++k) {
      const Action &send = at(sends[k]), &receive = at(receives[k]);
      if (receive_of(send) == receive) continue;
      refuse(schedule_, {sends[k], receives[k]},
             fmt::format("rank {} sends {} where rank {} receives {}: a channel keeps its order", sends[k].rank, to_text(send),
                         receives[k].rank, to_text(receive)));
    }
  }

  const Action& at(const Mark& mark) const { return schedule_[static_cast<std::size_t>(mark.rank)][mark.position]; }

  const Schedule& schedule_;
  const Layout& layout_;
  Marks sends_, receives_;
};

// What all ranks send each other for a split head goes over channels of its own, one an exit and kind of message.
void check_head_channels(const Schedule& schedule, const Layout& layout) {
  if (!layout.split_heads) return;
  std::map<std::pair<Op, int>, std::vector<Mark>> first, channel;
  for (std::size_t r = 0; r < schedule.size(); ++r) {
    channel.clear();
    for (std::size_t i = 0; i < schedule[r].size(); ++i) {
      const Action& action = schedule[r][i];
      if (is_head(action.op) && is_message(action.op)) channel[{action.op, action.index}].push_back({static_cast<int>(r), i});
    }
    if (r == 0) first = channel;
    for (const auto& [name, marks] : channel) {
      const std::vector<Mark>& expected = first.at(name);
      for (std::size_t k = 0; k < marks.size(); ++k) {
        const Action &mine = schedule[r][marks[k].position], &theirs = schedule[0][expected[k].position];
        if (mine.microbatch == theirs.microbatch) continue;
        refuse(schedule, {expected[k], marks[k]},
               fmt::format("rank 0 comes to {} where rank {} comes to {}: a channel keeps its order", to_text(theirs), r, to_text(mine)));
      }
    }
  }
}

std::uint64_t key_of(const Slab& slab) {
  const auto bits = [](std::int16_t value) { return static_cast<std::uint64_t>(static_cast<std::uint16_t>(value)); };
  return static_cast<std::uint64_t>(slab.what) << 48 | bits(slab.stage) << 32 | bits(slab.microbatch) << 16 | bits(slab.index);
}

std::string to_text(const Slab& slab) {
  return fmt::format("the {} of microbatch {} on stage {}", name_of(slab.what), slab.microbatch, slab.stage);
}

// Every slab is taken once and given back once, in this order, by the program that holds it.
void check_slabs(const Schedule& schedule, int rank, const Layout& layout) {
  const Program& program = schedule[static_cast<std::size_t>(rank)];
  std::unordered_set<std::uint64_t> held;
  for (std::size_t i = 0; i < program.size(); ++i) {
    const Lifetimes slabs = lifetimes(program[i], layout);
    for (const Slab& slab : slabs.takes) {
      if (held.insert(key_of(slab)).second) continue;
      refuse(schedule, {{rank, i}}, fmt::format("rank {}: {} takes {} a second time", rank, to_text(program[i]), to_text(slab)));
    }
    for (const Slab& slab : slabs.gives) {
      if (held.erase(key_of(slab)) == 1) continue;
      refuse(schedule, {{rank, i}},
             fmt::format("rank {}: {} gives back {}, which nothing has taken", rank, to_text(program[i]), to_text(slab)));
    }
  }
  if (!held.empty()) {
    refuse(schedule, {{rank, program.size()}}, fmt::format("rank {}: {} slabs are never given back", rank, held.size()));
  }
}

bool every(Op) { return true; }

}  // namespace

void check_actions(const Schedule& schedule, const Layout& layout, bool (*wanted)(Op)) {
  if (schedule.size() != static_cast<std::size_t>(layout.ranks))
    throw InvalidSchedule(fmt::format("the schedule has {} programs, the layout {} ranks", schedule.size(), layout.ranks), {});
  const ActionIds ids(layout);
  std::vector<bool> seen(ids.size(), false);
  for (std::size_t r = 0; r < schedule.size(); ++r) {
    for (std::size_t i = 0; i < schedule[r].size(); ++i) {
      const Mark mark{static_cast<int>(r), i};
      check_action(schedule, mark, layout);
      const std::size_t id = ids(schedule[r][i]);
      if (seen[id]) refuse(schedule, {mark}, fmt::format("rank {}: {} is there twice", r, to_text(schedule[r][i])));
      seen[id] = true;
    }
  }
  for (const Action& action : actions_of(layout)) {
    if (seen[ids(action)] || !wanted(action.op)) continue;
    const int rank = layout.rank_of(action.stage);
    throw InvalidSchedule(fmt::format("rank {}: {} is missing", rank, to_text(action)),
                          {{rank, schedule[static_cast<std::size_t>(rank)].size()}}, action);
  }
}

void validate(const Schedule& schedule, const Layout& layout) {
  check_layout(layout);
  check_actions(schedule, layout, every);
  ChannelOrder(schedule, layout).check();
  check_head_channels(schedule, layout);
  execution_order(schedule, layout);
  for (int r = 0; r < layout.ranks; ++r) check_slabs(schedule, r, layout);
}

}  // namespace offramp
