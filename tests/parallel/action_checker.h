// Runs actions in any order and checks that what they read is there: the schedule's meaning said a second time, without asking
// dependencies(), so that an edge missing there is found here.
#pragma once
#include <fmt/format.h>

#include <map>
#include <set>

#include "parallel/schedule.h"

namespace offramp::test {

class ActionChecker {
 public:
  explicit ActionChecker(const Layout& layout) : layout_(layout), next_exit_(stages(), {0, -1}), next_backward_(stages(), {0, -1}) {}

  // Empty, or what is wrong.
  std::string run(const Action& action) {
    error_.clear();
    const Lifetimes slabs = lifetimes(action, layout_);
    for (const Slab& slab : slabs.takes) {
      need(held_.insert(slab).second, fmt::format("{} is taken twice", name_of(slab.what)));
      const auto kind = static_cast<std::size_t>(slab.what);
      auto& [now, peak] = counts_[static_cast<std::size_t>(slab.stage)][kind];
      peak = std::max(peak, ++now);
    }
    meaning(action);
    for (const Slab& slab : slabs.gives) {
      need(held_.erase(slab) == 1, fmt::format("{} is given back but not held", name_of(slab.what)));
      --counts_[static_cast<std::size_t>(slab.stage)][static_cast<std::size_t>(slab.what)].first;
    }
    done_.insert(action);
    return error_.empty() ? "" : to_text(action) + ": " + error_;
  }

  bool holds_nothing() const { return held_.empty(); }
  int peak(int stage, int kind) const { return counts_.count(stage) ? counts_.at(stage)[static_cast<std::size_t>(kind)].second : 0; }

 private:
  std::size_t stages() const { return static_cast<std::size_t>(layout_.stages); }
  int last_microbatch() const { return layout_.microbatches - 1; }
  bool top(int s) const { return s == layout_.stages - 1; }
  bool at_output(const ExitPlace& exit) const { return exit.at_output && !top(exit.stage); }
  int segments(int s, int m) const { return m == last_microbatch() ? layout_.segments_of(s) : 1; }

  void need(bool condition, const std::string& what) {
    if (!condition && error_.empty()) error_ = what;
  }
  void need_slab(Hold what, int s, int m, int index = -1) {
    const Slab slab{what, static_cast<std::int16_t>(s), static_cast<std::int16_t>(m), static_cast<std::int16_t>(index)};
    need(held_.count(slab) == 1, fmt::format("{} is not there", name_of(what)));
  }
  bool was(Op op, int s, int m, int index = -1) const {
    return done_.count({op, static_cast<std::int16_t>(s), static_cast<std::int16_t>(m), static_cast<std::int16_t>(index)}) == 1;
  }
  bool gradient_is_ready(int s, int m) const { return next_backward_[static_cast<std::size_t>(s)].first > m; }
  bool exits_are_done(int s, int m) const {
    for (std::size_t e = 0; e < layout_.exits.size(); ++e) {
      if (layout_.exits[e].stage == s && !was(Op::Exit, s, m, static_cast<int>(e))) return false;
    }
    return true;
  }

  void meaning(const Action& a) {
    const int s = a.stage, m = a.microbatch;
    switch (a.op) {
      case Op::Forward:
        if (s > 0) need(was(Op::RecvActivation, s, m) && was(Op::SendActivation, s - 1, m), "its input has not arrived");
        if (s > 0) need_slab(Hold::Input, s, m);
        if (!top(s)) need_slab(Hold::Output, s, m);
        break;
      case Op::SendActivation:
        need(was(Op::Forward, s, m), "there is no output");
        need_slab(Hold::Output, s, m);
        break;
      case Op::Exit:
        run_exit(a);
        break;
      case Op::Backward:
        run_backward(a);
        break;
      case Op::SendGradient:
        need(gradient_is_ready(s, m), "there is no gradient");
        need_slab(Hold::Gradient, s, m);
        break;
      case Op::RecvActivation:
        need_slab(Hold::Input, s, m);
        break;
      case Op::RecvGradient:
        need_slab(Hold::Gradient, s, m);
        break;
      case Op::ReduceTied:
        run_tie(a);
        break;
      case Op::ReduceGradients:
        run_bucket(a);
        break;
    }
  }

  // Exits add to their heads' gradients in (microbatch, exit) order.
  void run_exit(const Action& a) {
    const ExitPlace& exit = layout_.exits[static_cast<std::size_t>(a.index)];
    need(was(Op::Forward, a.stage, a.microbatch), "nothing to read yet");
    if (at_output(exit)) {
      need_slab(Hold::Output, a.stage, a.microbatch);
      need(was(Op::SendActivation, a.stage, a.microbatch), "the next stage has to wait for it");
    } else {
      need_slab(Hold::Tap, a.stage, a.microbatch, exit.tap);
    }
    auto& last = next_exit_[static_cast<std::size_t>(a.stage)];
    const std::pair<int, int> here{a.microbatch, a.index};
    need(last < here && exits_before(a), "exits out of order");
    last = here;
  }

  bool exits_before(const Action& a) const {
    for (int e = 0; e < a.index; ++e) {
      if (layout_.exits[static_cast<std::size_t>(e)].stage == a.stage && !was(Op::Exit, a.stage, a.microbatch, e)) return false;
    }
    return a.microbatch == 0 || exits_are_done(a.stage, a.microbatch - 1);
  }

  void run_backward(const Action& a) {
    const int s = a.stage, m = a.microbatch;
    need(was(Op::Forward, s, m) && exits_are_done(s, m), "something of its microbatch has not run");
    if (!top(s)) need(was(Op::RecvGradient, s, m) && was(Op::SendGradient, s + 1, m), "its gradient has not arrived");
    need_slab(Hold::Gradient, s, m);
    need_slab(Hold::Stash, s, m);
    if (s > 0) need_slab(Hold::Input, s, m);
    for (std::size_t e = 0; e < layout_.exits.size(); ++e) {
      const ExitPlace& exit = layout_.exits[e];
      if (exit.stage != s) continue;
      at_output(exit) ? need_slab(Hold::Output, s, m) : need_slab(Hold::Tap, s, m, exit.tap);
      if (exit.gradient) need_slab(Hold::TapGradient, s, m, static_cast<int>(e));
    }
    auto& [next, segment] = next_backward_[static_cast<std::size_t>(s)];
    need(next == m && std::max<int>(a.index, 0) == segment + 1, "out of the order of accumulation");
    if (++segment + 1 == segments(s, m)) ++next, segment = -1;
  }

  void run_tie(const Action& a) {
    need(gradient_is_ready(a.stage, last_microbatch()) && exits_are_done(a.stage, last_microbatch()), "its gradients are not final");
    for (int holder : layout_.ties[static_cast<std::size_t>(a.index)]) {
      if (holder > a.stage) need(was(Op::ReduceTied, holder, -1, a.index), "a higher stage comes first");
    }
  }

  void run_bucket(const Action& a) {
    const BucketPlace bucket = layout_.buckets[static_cast<std::size_t>(a.stage)][static_cast<std::size_t>(a.index)];
    need(exits_are_done(a.stage, last_microbatch()), "its exits are not final");
    if (bucket.tie >= 0) need(was(Op::ReduceTied, a.stage, -1, bucket.tie), "its tie is not summed");
    const auto [next, segment] = next_backward_[static_cast<std::size_t>(a.stage)];
    need(bucket.tie >= 0 || next > last_microbatch() || (next == last_microbatch() && segment >= bucket.segment),
         "its segment is not final");
  }

  const Layout& layout_;
  std::string error_;
  std::set<Action> done_;
  std::set<Slab> held_;
  std::map<int, std::array<std::pair<int, int>, kHolds>> counts_;  // per stage and kind: now, most
  std::vector<std::pair<int, int>> next_exit_, next_backward_;     // per stage: last exit run; next microbatch, segment done of it
};

}  // namespace offramp::test
