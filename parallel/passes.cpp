#include <utility>

#include "parallel/actions.h"
#include "parallel/generators.h"

namespace offramp {
namespace {

void append_exits(Program& program, const Action& of, const Layout& layout) {
  for (std::size_t e = 0; e < layout.exits.size(); ++e) {
    if (layout.exits[e].stage == of.stage) program.push_back(make_action(Op::Exit, of.stage, of.microbatch, static_cast<int>(e)));
  }
}

bool is_first_backward(const Action& action, const Layout& layout) {
  return action.op == Op::Backward && action.index == first_backward(action.stage, action.microbatch, layout).index;
}

void append_receive(Program& program, const Action& consumer, const Layout& layout) {
  const int s = consumer.stage, m = consumer.microbatch;
  if (consumer.op == Op::Forward && s > 0) program.push_back(make_action(Op::RecvActivation, s, m));
  if (is_first_backward(consumer, layout) && s < layout.stages - 1) program.push_back(make_action(Op::RecvGradient, s, m));
}

void append_send(Program& program, const Action& producer, const Layout& layout) {
  const int s = producer.stage, m = producer.microbatch;
  if (producer.op == Op::Forward && s < layout.stages - 1) program.push_back(make_action(Op::SendActivation, s, m));
  if (producer.op == Op::Backward && s > 0 && producer == last_backward(s, m, layout)) {
    program.push_back(make_action(Op::SendGradient, s, m));
  }
}

template <class Ready>
void append_buckets(Program& program, int stage, const Layout& layout, Ready ready) {
  if (layout.buckets.empty()) return;
  const std::vector<BucketPlace>& buckets = layout.buckets[static_cast<std::size_t>(stage)];
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    if (ready(buckets[b])) program.push_back(make_action(Op::ReduceGradients, stage, -1, static_cast<int>(b)));
  }
}

void append_buckets_after(Program& program, const Action& backward, const Layout& layout) {
  if (backward.op != Op::Backward || backward.microbatch != layout.microbatches - 1) return;
  const int segment = backward.index < 0 ? 0 : backward.index;
  append_buckets(program, backward.stage, layout, [&](const BucketPlace& bucket) { return bucket.segment == segment; });
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

Program with_communication(const Program& compute, int rank, const Layout& layout) {
  Program program;
  program.reserve(3 * compute.size());
  if (!compute.empty()) append_receive(program, compute.front(), layout);
  for (std::size_t i = 0; i < compute.size(); ++i) {
    // Posted before this action runs, the next one's message travels while it does.
    if (i + 1 < compute.size()) append_receive(program, compute[i + 1], layout);
    program.push_back(compute[i]);
    append_send(program, compute[i], layout);
    append_buckets_after(program, compute[i], layout);
  }
  if (layout.backward && !compute.empty()) append_ties(program, rank, layout);
  return program;
}

}  // namespace

Schedule place_exits(Schedule schedule, const Layout& layout, Placement placement) {
  const bool after_forward = placement == Placement::after_forward || !layout.backward;
  for (Program& program : schedule) {
    Program placed;
    placed.reserve(2 * program.size());
    for (const Action& action : program) {
      const bool before = action.op == Op::Backward && action.index <= 0;
      if (!after_forward && before) append_exits(placed, action, layout);
      placed.push_back(action);
      if (after_forward && action.op == Op::Forward) append_exits(placed, action, layout);
    }
    program = std::move(placed);
  }
  return schedule;
}

Schedule split_last_backward(Schedule schedule, const Layout& layout) {
  for (Program& program : schedule) {
    Program split;
    split.reserve(program.size());
    for (const Action& action : program) {
      const bool whole = action.op == Op::Backward && action.index < 0;
      const int last = whole ? last_backward(action.stage, action.microbatch, layout).index : -1;
      if (last < 0) split.push_back(action);
      for (int k = 0; k <= last; ++k) split.push_back(make_action(Op::Backward, action.stage, action.microbatch, k));
    }
    program = std::move(split);
  }
  return schedule;
}

Schedule add_communication(Schedule schedule, const Layout& layout) {
  for (std::size_t r = 0; r < schedule.size(); ++r) schedule[r] = with_communication(schedule[r], static_cast<int>(r), layout);
  return schedule;
}

}  // namespace offramp
