#include "parallel/execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <unordered_map>

#include "parallel/actions.h"

namespace offramp {
namespace {

class Execution {
 public:
  Execution(const Schedule& schedule, const Layout& layout)
      : schedule_(schedule),
        layout_(layout),
        ids_(layout),
        state_(ids_.size(), State::ahead),
        next_(schedule.size(), 0),
        awaited_(schedule.size()) {}

  std::vector<Step> run() {
    std::size_t actions = 0;
    for (const Program& program : schedule_) actions += program.size();
    order_.reserve(actions);
    for (std::size_t r = 0; r < schedule_.size(); ++r) runnable_.push_back(static_cast<int>(r));
    while (!runnable_.empty()) {
      const int rank = runnable_.front();
      runnable_.pop_front();
      advance(rank);
    }
    if (order_.size() < actions) report_stuck();
    return std::move(order_);
  }

 private:
  enum class State : std::uint8_t { ahead, reached, done };

  // Runs a rank until it has to wait.
  void advance(int rank) {
    const Program& program = schedule_[static_cast<std::size_t>(rank)];
    for (std::size_t& next = next_[static_cast<std::size_t>(rank)]; next < program.size(); ++next) {
      const Action& action = program[next];
      const std::size_t id = ids_(action);
      if (state_[id] == State::ahead) {
        state_[id] = State::reached;
        wake(id);
      }
      awaited_[static_cast<std::size_t>(rank)] = what_it_waits_for(action);
      if (const auto& awaited = awaited_[static_cast<std::size_t>(rank)]) {
        waiting_.emplace(ids_(*awaited), rank);
        return;
      }
      state_[id] = State::done;
      order_.push_back({action, rank});
      wake(id);
    }
  }

  std::optional<Action> what_it_waits_for(const Action& action) const {
    for (const Action& needed : dependencies(action, layout_)) {
      if (state_[ids_(needed)] != State::done) return needed;
    }
    for (const Action& partner : partners_of(action, layout_))
      if (state_[ids_(partner)] == State::ahead) return partner;
    return std::nullopt;
  }

  void wake(std::size_t id) {
    const auto [begin, end] = waiting_.equal_range(id);
    for (auto it = begin; it != end; ++it) runnable_.push_back(it->second);
    waiting_.erase(begin, end);
  }

  // Every stuck rank waits for one that is stuck as well: following them ends in a circle, and whoever is in it is a cause.
  [[noreturn]] void report_stuck() const {
    const auto awaited_rank = [&](int rank) { return layout_.rank_of(awaited_[static_cast<std::size_t>(rank)]->stage); };
    int rank = 0;
    while (!awaited_[static_cast<std::size_t>(rank)]) ++rank;
    for (std::size_t i = 0; i < schedule_.size(); ++i) rank = awaited_rank(rank);
    int first = rank;
    for (int other = awaited_rank(rank); other != rank; other = awaited_rank(other)) first = std::min(first, other);

    const std::size_t at = static_cast<std::size_t>(first);
    const std::string why =
        fmt::format("rank {} is stuck at {}: it waits for {}\n", first, to_text(schedule_[at][next_[at]]), to_text(*awaited_[at]));
    throw InvalidSchedule(why + show_around(at), {{first, next_[at]}});
  }

  // The ranks around one, as many as fit on a screen.
  std::string show_around(std::size_t rank) const {
    constexpr std::size_t kShown = 16;
    const std::size_t ranks = schedule_.size(), shown = std::min(ranks, kShown);
    const std::size_t begin = std::min(rank - std::min(rank, kShown / 2), ranks - shown);
    std::vector<Mark> marks;
    for (std::size_t r = begin; r < begin + shown; ++r) marks.push_back({static_cast<int>(r), next_[r]});
    return show(schedule_, marks) + (shown < ranks ? fmt::format("  and {} more ranks\n", ranks - shown) : "");
  }

  const Schedule& schedule_;
  const Layout& layout_;
  ActionIds ids_;
  std::vector<State> state_;
  std::vector<std::size_t> next_;               // per rank: the position it is at
  std::vector<std::optional<Action>> awaited_;  // per rank: why it is there; empty: not stuck
  std::unordered_multimap<std::size_t, int> waiting_;
  std::deque<int> runnable_;
  std::vector<Step> order_;
};

}  // namespace

std::vector<Step> execution_order(const Schedule& schedule, const Layout& layout) { return Execution(schedule, layout).run(); }

std::string show(const Schedule& schedule, const std::vector<Mark>& marks) {
  constexpr std::size_t kAround = 5;
  std::string text;
  for (const Mark& mark : marks) {
    const Program& program = schedule[static_cast<std::size_t>(mark.rank)];
    const std::size_t at = mark.position, begin = at - std::min(at, kAround), end = std::min(program.size(), at + kAround + 1);
    text += fmt::format("  rank {}:{}", mark.rank, begin > 0 ? " ..." : "");
    for (std::size_t k = begin; k < end; ++k)
      text += k == at ? fmt::format(" >>{}<<", to_text(program[k])) : fmt::format(" {}", to_text(program[k]));
    text += end < program.size() ? " ...\n" : at == program.size() ? " >>end<<\n" : "\n";
  }
  return text;
}

}  // namespace offramp
