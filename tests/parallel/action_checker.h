// Runs actions in any order and checks that what they read is there: the schedule's meaning said a second time, without asking
// dependencies(), so that an edge missing there is found here.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

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
  bool top(int s) const { return s == layout_.stages - 1; }
  bool at_output(const ExitPlace& exit) const { return exit.at_output && !top(exit.stage); }
  int segments(int s, int m) const { return m == layout_.last_microbatch(s) ? layout_.segments_of(s) : 1; }

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
      const int exit = static_cast<int>(e);
      const bool here = layout_.exits[e].stage == s && layout_.meets(exit, m);
      if (here && !was(layout_.split_heads ? Op::Untap : Op::Exit, s, m, exit)) return false;
    }
    return true;
  }
  bool all_exits_are_done(int s) const {
    for (int m = 0; m < layout_.microbatches; ++m)
      if (!exits_are_done(s, m)) return false;
    return true;
  }

  bool heads_are_done(int s) const {
    for (std::size_t e = 0; e < layout_.exits.size() && layout_.split_heads; ++e) {
      int last = layout_.microbatches - 1;
      while (!layout_.meets(static_cast<int>(e), last)) --last;
      if (!was(Op::HeadWeightGrad, layout_.rank_of(s), last, static_cast<int>(e))) return false;
    }
    return true;
  }

  void meaning(const Action& a) {
    const int s = a.stage, m = a.microbatch, e = a.index;
    const auto root = [&] { return layout_.rank_of(layout_.exits[static_cast<std::size_t>(e)].stage); };
    switch (a.op) {
      case Op::Forward:
        if (s > 0) need(was(Op::RecvActivation, s, m) && was(Op::SendActivation, s - 1, m), "its input has not arrived");
        if (s > 0) need_slab(Hold::Input, s, m);
        if (goes_on(s, m)) need_slab(Hold::Output, s, m);
        break;
      case Op::Recompute:
        need(was(Op::Forward, s, m), "its forward has not run");
        if (s > 0) need_slab(Hold::Input, s, m);
        break;
      case Op::SendActivation:
        need(was(Op::Forward, s, m), "there is no output");
        need_slab(Hold::Output, s, m);
        break;
      case Op::Exit:
      case Op::Tap:
        run_exit(a);
        break;
      case Op::Scores:
        need(was(Op::ShareTap, root(), m, e) && (s == root() || was(Op::ShareTap, s, m, e)), "its input has not arrived");
        need_slab(Hold::HeadInput, s, m, e);
        break;
      case Op::HeadBackward:
        for (int r = 0; r < layout_.ranks; ++r) need(was(Op::Scores, r, m, e) && was(Op::ShareScores, r, m, e), "statistics are missing");
        need_slab(Hold::HeadScores, s, m, e);
        need_slab(Hold::HeadStats, s, m, e);
        in_order({Op::HeadBackward, s, e}, {m, e});
        break;
      case Op::HeadWeightGrad:
        need(was(Op::HeadBackward, s, m, e), "there is no gradient of its scores");
        need_slab(Hold::HeadScores, s, m, e);
        need_slab(Hold::HeadInput, s, m, e);
        in_order({Op::HeadWeightGrad, s, matrix(e)}, {m, e});
        break;
      case Op::Untap:
        for (int r = 0; r < layout_.ranks; ++r)
          need(was(Op::HeadBackward, r, m, e) && (layout_.ranks == 1 || was(Op::SumShares, r, m, e)), "shares are missing");
        need_slab(Hold::HeadStash, s, m, e);
        need_slab(Hold::HeadShare, root(), m, e);
        in_order({Op::Untap, s, -1}, {m, e});
        break;
      case Op::ShareTap:
        if (s == root()) need(was(Op::Tap, layout_.exits[static_cast<std::size_t>(e)].stage, m, e), "there is nothing to share");
        need_slab(Hold::HeadInput, s, m, e);
        break;
      case Op::ShareScores:
        need(was(Op::Scores, s, m, e), "there is nothing to share");
        need_slab(Hold::HeadStats, s, m, e);
        break;
      case Op::ShareFinal:
        if (top(s)) need(was(Op::Forward, s, m), "there is nothing to share");
        need_slab(Hold::Final, s, m);
        break;
      case Op::SumShares:
        if (s != root()) need(was(Op::HeadBackward, s, m, e), "there is no share");
        need_slab(s == root() ? Hold::HeadShares : Hold::HeadShare, s, m, e);
        break;
      case Op::Backward:
        run_backward(a);
        break;
      case Op::WeightGrad:
        run_weight_gradient(a);
        break;
      case Op::SendGradient:
        need(layout_.split_backward ? was(Op::Backward, s, m) : gradient_is_ready(s, m), "there is no gradient");
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

  int matrix(int e) const {
    const int shared = layout_.exits[static_cast<std::size_t>(e)].matrix;
    return shared >= 0 ? shared : 1000 + e;
  }
  bool goes_on(int s, int m) const { return !top(s) && layout_.runs_forward(s + 1, m); }

  // Whatever adds to one place does so in (microbatch, exit) order and leaves none out (those left out would come later).
  void in_order(const std::tuple<Op, int, int>& place, const std::pair<int, int>& here) {
    const auto [last, fresh] = last_.try_emplace(place, here);
    need(fresh || last->second < here, "out of the order of accumulation");
    last->second = here;
  }

  // Exits add to their heads' gradients in (microbatch, exit) order.
  void run_exit(const Action& a) {
    const ExitPlace& exit = layout_.exits[static_cast<std::size_t>(a.index)];
    need(was(Op::Forward, a.stage, a.microbatch), "nothing to read yet");
    if (at_output(exit)) {
      need_slab(Hold::Output, a.stage, a.microbatch);
      if (goes_on(a.stage, a.microbatch)) need(was(Op::SendActivation, a.stage, a.microbatch), "the next stage has to wait for it");
    } else {
      need_slab(Hold::Tap, a.stage, a.microbatch, exit.tap);
    }
    if (layout_.role_of(a.index, a.microbatch) == ExitRole::taught) learn(a);
    auto& last = next_exit_[static_cast<std::size_t>(a.stage)];
    const std::pair<int, int> here{a.microbatch, a.index};
    need(last < here && exits_before(a), "exits out of order");
    last = here;
  }

  void learn(const Action& exit) {
    const int teacher = layout_.teacher_of(exit.microbatch);
    need_slab(Hold::Final, exit.stage, teacher);
    need(was(Op::Forward, layout_.stages - 1, teacher), "its teacher has not run");
    if (!top(exit.stage)) need(was(Op::ShareFinal, layout_.stages - 1, teacher), "its teacher has not arrived");
    bool waited_for = false;
    for (int m = teacher; m < layout_.microbatches && layout_.samples_of(m) == layout_.samples_of(teacher); ++m)
      for (std::size_t e = 0; e < layout_.exits.size(); ++e)
        waited_for = waited_for || (layout_.teacher_of(m) == teacher && !top(layout_.exits[e].stage) &&
                                    layout_.role_of(static_cast<int>(e), m) == ExitRole::taught);
    if (top(exit.stage) && waited_for) need(was(Op::ShareFinal, exit.stage, teacher), "other stages have to wait for it");
  }

  bool exits_before(const Action& a) const {
    for (int m = 0; m <= a.microbatch; ++m) {
      for (int e = 0; e < static_cast<int>(layout_.exits.size()) && (m < a.microbatch || e < a.index); ++e) {
        const bool here = layout_.exits[static_cast<std::size_t>(e)].stage == a.stage && layout_.meets(e, m);
        if (here && !was(a.op, a.stage, m, e)) return false;
      }
    }
    return true;
  }

  void run_backward(const Action& a) {
    const int s = a.stage, m = a.microbatch;
    need(was(Op::Forward, s, m) && exits_are_done(s, m), "something of its microbatch has not run");
    if (layout_.recomputes(s)) need(was(Op::Recompute, s, m), "its forward has not run again");
    if (goes_on(s, m)) need(was(Op::RecvGradient, s, m) && was(Op::SendGradient, s + 1, m), "its gradient has not arrived");
    need_slab(Hold::Gradient, s, m);
    if (layout_.split_backward) need_slab(Hold::Deferred, s, m);
    need_slab(Hold::Stash, s, m);
    if (s > 0) need_slab(Hold::Input, s, m);
    for (std::size_t e = 0; e < layout_.exits.size(); ++e) {
      const ExitPlace& exit = layout_.exits[e];
      if (exit.stage != s || !layout_.meets(static_cast<int>(e), m)) continue;
      at_output(exit) ? need_slab(Hold::Output, s, m) : need_slab(Hold::Tap, s, m, exit.tap);
      if (exit.gradient) need_slab(Hold::TapGradient, s, m, static_cast<int>(e));
    }
    if (layout_.split_backward) return in_order({Op::Backward, s, -1}, {m, 0});
    advance(a);
  }

  void run_weight_gradient(const Action& a) {
    need(was(Op::Backward, a.stage, a.microbatch), "its backward has not run");
    need_slab(Hold::Stash, a.stage, a.microbatch);
    need_slab(Hold::Deferred, a.stage, a.microbatch);
    advance(a);
  }

  // The stage's weight gradients of one microbatch after the other, segment by segment.
  void advance(const Action& a) {
    const int s = a.stage, m = a.microbatch;
    auto& [next, segment] = next_backward_[static_cast<std::size_t>(s)];
    while (next < m && !layout_.runs_backward(s, next)) ++next;
    need(next == m && std::max<int>(a.index, 0) == segment + 1, "out of the order of accumulation");
    if (++segment + 1 == segments(s, m)) ++next, segment = -1;
  }

  void run_tie(const Action& a) {
    const int last = layout_.last_microbatch(a.stage);
    if (layout_.learns()) need(gradient_is_ready(a.stage, last), "its gradients are not final");
    need(all_exits_are_done(a.stage) && heads_are_done(a.stage), "its exits are not final");
    for (int holder : layout_.ties[static_cast<std::size_t>(a.index)]) {
      if (holder > a.stage) need(was(Op::ReduceTied, holder, -1, a.index), "a higher stage comes first");
    }
  }

  void run_bucket(const Action& a) {
    const BucketPlace bucket = layout_.buckets[static_cast<std::size_t>(a.stage)][static_cast<std::size_t>(a.index)];
    const int last = layout_.last_microbatch(a.stage);
    need(all_exits_are_done(a.stage) && heads_are_done(a.stage), "its exits are not final");
    if (bucket.tie >= 0) need(was(Op::ReduceTied, a.stage, -1, bucket.tie), "its tie is not summed");
    const auto [next, segment] = next_backward_[static_cast<std::size_t>(a.stage)];
    need(bucket.tie >= 0 || !layout_.learns() || next > last || (next == last && segment >= bucket.segment), "its segment is not final");
  }

  const Layout& layout_;
  std::string error_;
  std::set<Action> done_;
  std::set<Slab> held_;
  std::map<int, std::array<std::pair<int, int>, kHolds>> counts_;  // per stage and kind: now, most
  std::map<std::tuple<Op, int, int>, std::pair<int, int>> last_;   // what adds up, where: the (microbatch, exit) that did last
  std::vector<std::pair<int, int>> next_exit_, next_backward_;     // per stage: last exit run; next microbatch, segment done of it
};

}  // namespace offramp::test
