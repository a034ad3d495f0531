#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/taps.h"

namespace offramp {
namespace {

void append_exits(Program& program, int stage, int microbatch, const Layout& layout) {
  for (std::size_t e = 0; e < layout.exits.size(); ++e) {
    const Action exit = make_action(Op::Exit, stage, microbatch, static_cast<int>(e));
    if (exists(exit, layout)) program.push_back(exit);
  }
}

// Forwards that come before a microbatch's exits after its own: those that run while what the final head reads comes back.
int forwards_meanwhile(int stage, int microbatch, const Layout& layout) {
  const int last = layout.stages - 1, teacher = layout.teacher_of(microbatch);
  return teacher >= 0 && stage < last && shares_final(stage, teacher, layout) ? last - stage + 1 : 0;
}

// After a forward: its exits, unless those of an earlier microbatch, which add up first, are still to come; then they wait for these.
class ExitsAfterForwards {
 public:
  explicit ExitsAfterForwards(const Layout& layout) : layout_(layout) {}

  void append(Program& program, const Action& forward) {
    Line& line = lines_[forward.stage];
    line.ran.insert(forward.microbatch);
    append_ready(program, forward.stage, true, layout_.microbatches);
  }
  // Those that its backward waits for.
  void before(Program& program, const Action& backward) { append_ready(program, backward.stage, false, backward.microbatch + 1); }
  // Those that no forward comes after.
  void finish(Program& program) {
    for (const auto& [stage, line] : lines_) append_ready(program, stage, false, layout_.microbatches);
  }

 private:
  struct Line {
    int next = 0;  // the microbatch whose exits come next
    std::set<int> ran;
    std::size_t exits = 0;  // microbatches whose exits came
  };
  void append_ready(Program& program, int stage, bool more_to_come, int end) {
    Line& line = lines_[stage];
    for (;;) {
      while (line.next < layout_.microbatches && !runs_exits(stage, line.next)) ++line.next;
      if (line.next >= end) return;
      const auto next = line.ran.find(line.next);
      const int meanwhile = more_to_come ? forwards_meanwhile(stage, line.next, layout_) : 0;
      if (next == line.ran.end() || line.ran.size() - line.exits <= static_cast<std::size_t>(meanwhile)) return;
      append_exits(program, stage, line.next++, layout_);
      ++line.exits;
    }
  }
  bool runs_exits(int stage, int microbatch) const {
    return layout_.backward ? layout_.runs_backward(stage, microbatch) : layout_.runs_forward(stage, microbatch);
  }
  const Layout& layout_;
  std::map<int, Line> lines_;  // by stage
};

bool is_first_backward(const Action& action) { return action.op == Op::Backward && action.index <= 0; }

void append_if(Program& program, const Action& action, const Layout& layout) {
  if (exists(action, layout)) program.push_back(action);
}

// What posts the receives of what an action reads.
Program receives_of(const Action& consumer, const Layout& layout) {
  Program posts;
  const int s = consumer.stage, m = consumer.microbatch, e = consumer.index;
  if (consumer.op == Op::Forward) append_if(posts, make_action(Op::RecvActivation, s, m), layout);
  if (is_first_backward(consumer)) append_if(posts, make_action(Op::RecvGradient, s, m), layout);
  if (consumer.op == Op::Scores && s != layout.rank_of(layout.exits[static_cast<std::size_t>(e)].stage))
    append_if(posts, make_action(Op::ShareTap, s, m, e), layout);
  if (const int teacher = consumer.op == Op::Exit && s < layout.stages - 1 ? layout.teacher_of(m) : -1; teacher >= 0)
    if (first_taught(s, teacher, layout) == Met{m, e}) append_if(posts, make_action(Op::ShareFinal, s, teacher), layout);
  if (consumer.op == Op::Untap) append_if(posts, make_action(Op::SumShares, layout.rank_of(s), m, e), layout);
  return posts;
}

// Whose ends send what a post receives.
Program producers_of(const Action& post, const Layout& layout) {
  const int s = post.stage, m = post.microbatch, e = post.index;
  if (post.op == Op::RecvActivation) return {make_action(Op::Forward, s - 1, m)};
  if (post.op == Op::RecvGradient) return {make_action(Op::Backward, s + 1, m)};
  if (post.op == Op::ShareFinal) return {make_action(Op::Forward, layout.stages - 1, m)};
  if (post.op == Op::ShareTap) return {make_action(Op::Tap, layout.exits[static_cast<std::size_t>(e)].stage, m, e)};
  Program producers;
  for (int r = 0; r < layout.ranks; ++r)
    if (r != s) producers.push_back(make_action(Op::HeadBackward, r, m, e));
  return producers;
}

void append_send(Program& program, const Action& producer, const Layout& layout) {
  const int s = producer.stage, m = producer.microbatch, e = producer.index;
  if (producer.op == Op::Forward) append_if(program, make_action(Op::SendActivation, s, m), layout);
  if (producer.op == Op::Forward && s == layout.stages - 1) append_if(program, make_action(Op::ShareFinal, s, m), layout);
  if (producer.op == Op::Backward && producer == last_backward(s, m, layout))
    append_if(program, make_action(Op::SendGradient, s, m), layout);
  if (producer.op == Op::Tap) append_if(program, make_action(Op::ShareTap, layout.rank_of(s), m, e), layout);
  if (producer.op == Op::Scores) append_if(program, make_action(Op::ShareScores, s, m, e), layout);
  if (producer.op == Op::HeadBackward && s != layout.rank_of(layout.exits[static_cast<std::size_t>(e)].stage))
    append_if(program, make_action(Op::SumShares, s, m, e), layout);
}

template <class Ready>
void append_buckets(Program& program, int stage, const Layout& layout, Ready ready) {
  if (layout.buckets.empty()) return;
  const std::vector<BucketPlace>& buckets = layout.buckets[static_cast<std::size_t>(stage)];
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    if (ready(buckets[b])) program.push_back(make_action(Op::ReduceGradients, stage, -1, static_cast<int>(b)));
  }
}

void append_buckets_after(Program& program, const Action& action, const Layout& layout) {
  const Op completes = layout.split_backward ? Op::WeightGrad : Op::Backward;
  if (action.op != completes || action.microbatch != layout.last_microbatch(action.stage)) return;
  const int segment = action.index < 0 ? 0 : action.index;
  append_buckets(program, action.stage, layout, [&](const BucketPlace& bucket) { return bucket.segment == segment; });
}

// In tie order on every rank, each from the highest stage down: no two ranks can wait for each other.
void append_ties(Program& program, int rank, const Layout& layout) {
  for (std::size_t t = 0; t < layout.ties.size(); ++t) {
    const int tie = static_cast<int>(t);
    for (int stage : layout.ties[t]) {
      if (layout.rank_of(stage) != rank) continue;
      program.push_back(make_action(Op::ReduceTied, stage, -1, tie));
      append_buckets(program, stage, layout, [&](const BucketPlace& bucket) { return bucket.tie == tie; });
    }
  }
}

// Where a rank's receives are posted: in front of which of its actions.
using Posts = std::vector<Program>;

// Posted before the action ahead of its consumer runs, a message travels while that one does. W and R, which no other rank waits for,
// do not count: what is ahead of them is the pass before. What comes back from the last stage is posted once the microbatch has gone on:
// that stage sends it before it takes the next one.
Posts posts_one_ahead(const Program& compute, const Layout& layout) {
  Posts posts(compute.size());
  for (std::size_t i = 0; i < compute.size(); ++i) {
    std::size_t at = i == 0 ? 0 : i - 1;
    while (at > 0 && (compute[at].op == Op::WeightGrad || compute[at].op == Op::Recompute)) --at;
    for (const Action& post : receives_of(compute[i], layout)) {
      const Action forward = make_action(Op::Forward, post.stage, post.microbatch);
      const bool comes_back = post.op == Op::ShareFinal;
      posts[comes_back ? static_cast<std::size_t>(std::ranges::find(compute, forward) - compute.begin()) + 1 : at].push_back(post);
    }
  }
  return posts;
}

// What is known of a program whose actions have their times.
class Clock {
 public:
  Clock(const Placed& placed, const ActionGraph& graph) : placed_(placed), graph_(graph), leaves_(placed.turn.size(), 0) {
    for (const Program& program : placed.schedule) {
      for (std::size_t i = 0; i < program.size(); ++i)
        leaves_[at(program[i])] = i + 1 < program.size() ? turn(program[i + 1]) : static_cast<int>(leaves_.size());
    }
  }
  double begin(const Action& action) const { return placed_.begin[at(action)]; }
  double end(const Action& action) const { return begin(action) + graph_.nodes()[at(action)].seconds; }
  int turn(const Action& action) const { return placed_.turn[at(action)]; }
  int leaves(const Action& action) const { return leaves_[at(action)]; }  // what it sends is sent before this turn

 private:
  std::size_t at(const Action& action) const { return static_cast<std::size_t>(graph_.number(action)); }
  const Placed& placed_;
  const ActionGraph& graph_;
  std::vector<int> leaves_;
};

// Posted when its message sets out at the latest: in front of the last action that begins no later. (Actions that take no time may
// begin at once; their turns then say which order is possible.)
Posts posts_in_time(const Program& compute, const Layout& layout, const Clock& clock) {
  Posts posts(compute.size());
  for (std::size_t i = 0; i < compute.size(); ++i) {
    for (const Action& post : receives_of(compute[i], layout)) {
      double sent = clock.begin(compute[i]);
      int leaves = clock.turn(compute[i]);
      for (const Action& producer : producers_of(post, layout)) {
        sent = std::min(sent, clock.end(producer));
        leaves = std::min(leaves, clock.leaves(producer));
      }
      std::size_t at = i == 0 ? 0 : i - 1;
      while (at > 0 && (clock.begin(compute[at]) > sent || clock.turn(compute[at - 1]) >= leaves)) --at;
      posts[at].push_back(post);
    }
  }
  return posts;
}

// Between two actions: what the first sends, then the posts. Where posts stand as late as can be they come first, so that no two
// ranks wait with a send for each other's post behind it. With split heads a bucket waits for the last of its rank's parts. A stage that
// no microbatch comes to has nothing to add to sums, but others wait for it there.
Program with_communication(const Program& compute, const Posts& posts, bool posts_first, int rank, const Layout& layout) {
  const bool late = layout.split_heads || layout.frozen;  // exits end after the backward
  Program program;
  program.reserve(3 * compute.size());
  for (std::size_t i = 0; i <= compute.size(); ++i) {
    if (i > 0 && !posts_first) append_send(program, compute[i - 1], layout);
    if (i < compute.size()) program.insert(program.end(), posts[i].begin(), posts[i].end());
    if (i > 0 && posts_first) append_send(program, compute[i - 1], layout);
    if (i > 0 && !late) append_buckets_after(program, compute[i - 1], layout);
    if (i < compute.size()) program.push_back(compute[i]);
  }
  if (!layout.backward) return program;
  for (int s = rank; s < layout.stages; s += layout.ranks)
    if (late || layout.last_microbatch(s) < 0) append_buckets(program, s, layout, [](const BucketPlace& bucket) { return bucket.tie < 0; });
  append_ties(program, rank, layout);
  return program;
}

}  // namespace

Schedule place_exits(Schedule schedule, const Layout& layout, Placement placement) {
  const bool after_forward = placement == Placement::after_forward || !layout.learns();
  for (Program& program : schedule) {
    Program placed;
    placed.reserve(2 * program.size());
    ExitsAfterForwards after(layout);
    for (const Action& action : program) {
      const bool before = action.op == Op::Backward && action.index <= 0;
      if (!after_forward && before) append_exits(placed, action.stage, action.microbatch, layout);
      if (after_forward && before) after.before(placed, action);
      placed.push_back(action);
      if (after_forward && action.op == Op::Forward) after.append(placed, action);
    }
    after.finish(placed);
    program = std::move(placed);
  }
  return schedule;
}

Schedule split_last_backward(Schedule schedule, const Layout& layout) {
  const Op op = layout.split_backward ? Op::WeightGrad : Op::Backward;
  for (Program& program : schedule) {
    Program split;
    split.reserve(program.size());
    for (const Action& action : program) {
      const bool whole = action.op == op && action.index < 0;
      const int last = whole ? last_weight_gradient(action.stage, action.microbatch, layout).index : -1;
      if (last < 0) split.push_back(action);
      for (int k = 0; k <= last; ++k) split.push_back(make_action(op, action.stage, action.microbatch, k));
    }
    program = std::move(split);
  }
  return schedule;
}

Schedule place_weight_gradients(Schedule schedule, const Layout& layout) {
  if (!layout.split_backward) return schedule;
  for (Program& program : schedule) {
    Program placed;
    for (const Action& action : program) {
      placed.push_back(action);
      if (action.op == Op::Backward) placed.push_back(make_action(Op::WeightGrad, action.stage, action.microbatch));
    }
    program = std::move(placed);
  }
  return schedule;
}

Schedule place_recompute(Schedule schedule, const Layout& layout) {
  for (Program& program : schedule) {
    Program placed;
    for (const Action& action : program) {
      if (is_first_backward(action) && layout.recomputes(action.stage))
        placed.push_back(make_action(Op::Recompute, action.stage, action.microbatch));
      placed.push_back(action);
    }
    program = std::move(placed);
  }
  return schedule;
}

Schedule add_communication(Schedule schedule, const Layout& layout) {
  for (std::size_t r = 0; r < schedule.size(); ++r)
    schedule[r] = with_communication(schedule[r], posts_one_ahead(schedule[r], layout), false, static_cast<int>(r), layout);
  return schedule;
}

Schedule add_communication(const Placed& placed, const Layout& layout, const ActionGraph& graph) {
  const Clock clock(placed, graph);
  Schedule schedule;
  for (const Program& whole : placed.schedule) {
    // Posts are found for whole actions and then stand in front of an action's first segment.
    const Posts of_whole = posts_in_time(whole, layout, clock);
    Program compute;
    Posts posts;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const Program cut = split_last_backward({{whole[i]}}, layout).front();
      compute.insert(compute.end(), cut.begin(), cut.end());
      posts.push_back(of_whole[i]);
      posts.resize(compute.size());
    }
    schedule.push_back(with_communication(compute, posts, true, static_cast<int>(schedule.size()), layout));
  }
  return schedule;
}

}  // namespace offramp
