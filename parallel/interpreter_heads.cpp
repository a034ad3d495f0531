// Actions of heads whose output matrix is split by vocabulary over the pipeline: T and U where the exit stands, S, G, H and the
// messages on every rank.
#include "parallel/actions.h"
#include "parallel/interpreter.h"
#include "parallel/split_head.h"
#include "tensor/check.h"

namespace offramp {
namespace {

Slab slab_of(Hold what, int stage, const Action& action) {
  return {what, static_cast<std::int16_t>(stage), action.microbatch, action.index};
}

// A stream an exit and kind of message.
int tag_of(const Action& action) { return kHeadTags + 3 * action.index + static_cast<int>(action.op) - static_cast<int>(Op::ShareTap); }

}  // namespace

void Interpreter::execute_head(const Action& action, const Layout& layout, const StepInput& input) {
  OutputMatrix& output = (*on_.heads)[static_cast<std::size_t>(action.index)].output();
  switch (action.op) {
    case Op::Tap:
      return tap(action, layout, input);
    case Op::Scores:
      return output.scores(*ctx_, own_statistics(action, input), scores_in(action, input));
    case Op::HeadBackward:
      return head_backward(action, layout, input);
    case Op::HeadWeightGrad:
      return output.scores_weight_gradient(*ctx_, scores_in(action, input));
    case Op::Untap:
      return untap(action, layout);
    case Op::ShareTap:
      return share_tap(action, layout);
    case Op::ShareScores:
      return share_scores(action, input);
    case Op::SumShares:
      return sum_shares(action, layout);
    default:
      broken("an action that can be run", fmt::format("[interpreter] {}", to_text(action)));
  }
}

void Interpreter::tap(const Action& action, const Layout& layout, const StepInput& input) {
  const MicrobatchInput& microbatch = input.samples(action.microbatch);
  Head& head = (*on_.heads)[static_cast<std::size_t>(action.index)];
  const Tensor x = tap_of(action, layout);
  const Tensor top = tensor_of(slab_of(Hold::HeadInput, layout.rank_of(action.stage), action), on_.activations, on_.precision);
  if (!layout.backward) {
    Scratch scope(*ctx_);
    Slot slot(*ctx_->scratch, Keep::nothing, microbatch.sequences, input.draws_of(action.microbatch));
    return head.tap(*ctx_, top, x, slot);
  }
  const Slab stash = slab_of(Hold::HeadStash, action.stage, action);
  auto kept = keep_forward(stash, Keep::everything, input);
  head.tap(*ctx_, top, x, kept->slot);
  kept_[stash] = std::move(kept);
}

// The slab holds the logits, then their statistics until these leave.
ScoresIn Interpreter::scores_in(const Action& action, const StepInput& input) {
  const Slab top = slab_of(Hold::HeadInput, action.stage, action), scores = slab_of(Hold::HeadScores, action.stage, action);
  const bool waits = action.op == Op::Scores && arriving_.contains(top);  // the exit's own rank made it itself
  if (waits) await_arrival(top);
  const Tensor labels = input.samples(action.microbatch).labels;
  const std::int64_t words = (*on_.heads)[static_cast<std::size_t>(action.index)].output().vocabulary();
  return {tensor_of(top, on_.activations, on_.precision), labels, tensor_of(scores, {labels.elements(), words}, DType::f32)};
}

Tensor Interpreter::own_statistics(const Action& action, const StepInput& input) const {
  const std::int64_t tokens = input.samples(action.microbatch).labels.elements();
  const std::int64_t words = (*on_.heads)[static_cast<std::size_t>(action.index)].output().vocabulary();
  const Slab scores = slab_of(Hold::HeadScores, action.stage, action);
  return tensor_of(scores, {tokens * (words + 4)}, DType::f32).narrow(0, tokens * words, tokens * 4);
}

// The exit's own rank counts the loss.
void Interpreter::head_backward(const Action& action, const Layout& layout, const StepInput& input) {
  Head& head = (*on_.heads)[static_cast<std::size_t>(action.index)];
  const Slab stats = slab_of(Hold::HeadStats, action.stage, action);
  await_arrival(stats);
  const ScoresIn in = scores_in(action, input);
  const Tensor statistics = tensor_of(stats, {layout.ranks, 4 * in.labels.elements()}, DType::f32);
  const Tensor share =
      layout.backward ? tensor_of(slab_of(Hold::HeadShare, action.stage, action), on_.activations, on_.precision) : Tensor{};
  const bool counts = action.stage == layout.rank_of(layout.exits[static_cast<std::size_t>(action.index)].stage);
  const Tensor sums = counts ? input.passes.front().sums.narrow(0, action.index, 1).reshape({kLossSums}) : Tensor{};
  const LossOptions options{input.passes.front().exit_scale[static_cast<std::size_t>(action.index)], head.spec().confidence_weights};
  head.output().scores_backward(*ctx_, share, sums, in, statistics, options);
}

void Interpreter::untap(const Action& action, const Layout& layout) {
  const int root = layout.rank_of(action.stage);
  const Tensor own = tensor_of(slab_of(Hold::HeadShare, root, action), on_.activations, on_.precision);
  if (layout.ranks > 1) {
    const Slab others = slab_of(Hold::HeadShares, root, action);
    await_arrival(others);
    const Shape all{layout.ranks - 1, on_.activations[0], on_.activations[1]};
    offramp::sum_shares(*ctx_, own, own, tensor_of(others, all, on_.precision), root);
  }
  const bool gradient = layout.learns() && layout.exits[static_cast<std::size_t>(action.index)].gradient;
  const Tensor d_tap = gradient ? tensor_of(Hold::TapGradient, action, action.index) : Tensor{};
  const Slab stash = slab_of(Hold::HeadStash, action.stage, action);
  KeptForward& kept = *kept_.at(stash);
  (*on_.heads)[static_cast<std::size_t>(action.index)].untap(*ctx_, d_tap, own, kept.slot);
  OFFRAMP_CHECK(kept.slot.empty(), "[interpreter] {} left tensors in its slot", to_text(action));
  kept_.erase(stash);
}

void Interpreter::share_tap(const Action& action, const Layout& layout) {
  const int root = layout.rank_of(layout.exits[static_cast<std::size_t>(action.index)].stage);
  const Slab top = slab_of(Hold::HeadInput, action.stage, action);
  const Tensor tensor = tensor_of(top, on_.activations, on_.precision);
  if (action.stage != root) return arriving_[top].push_back(receive(*ctx_, tensor, on_.mesh->pipeline, root, tag_of(action)));
  for (int r = 0; r < layout.ranks; ++r)
    if (r != root) leaving_[{top.what, live_.at(top)}].push_back(send(*ctx_, tensor, on_.mesh->pipeline, r, tag_of(action)));
}

void Interpreter::share_scores(const Action& action, const StepInput& input) {
  const Slab stats = slab_of(Hold::HeadStats, action.stage, action);
  const Tensor own = own_statistics(action, input);
  const int ranks = on_.mesh->pipeline.size();
  const Tensor all = tensor_of(stats, {ranks, own.elements()}, DType::f32);
  const auto row = [&](int r) { return all.narrow(0, r, 1).reshape({own.elements()}); };
  copy(*ctx_, row(action.stage), own);
  auto& arriving = arriving_[stats];
  auto& leaving = leaving_[{stats.what, live_.at(stats)}];
  for (int r = 0; r < ranks; ++r) {
    if (r == action.stage) continue;
    arriving.push_back(receive(*ctx_, row(r), on_.mesh->pipeline, r, tag_of(action)));
    leaving.push_back(send(*ctx_, row(action.stage), on_.mesh->pipeline, r, tag_of(action)));
  }
}

void Interpreter::sum_shares(const Action& action, const Layout& layout) {
  const int root = layout.rank_of(layout.exits[static_cast<std::size_t>(action.index)].stage);
  if (action.stage != root) {
    const Slab share = slab_of(Hold::HeadShare, action.stage, action);
    const Tensor tensor = tensor_of(share, on_.activations, on_.precision);
    return leaving_[{share.what, live_.at(share)}].push_back(send(*ctx_, tensor, on_.mesh->pipeline, root, tag_of(action)));
  }
  const Slab shares = slab_of(Hold::HeadShares, root, action);
  const Tensor all = tensor_of(shares, {layout.ranks - 1, on_.activations[0], on_.activations[1]}, on_.precision);
  for (int r = 0, at = 0; r < layout.ranks; ++r) {
    if (r == root) continue;
    const Tensor share = all.narrow(0, at++, 1).reshape(on_.activations);
    arriving_[shares].push_back(receive(*ctx_, share, on_.mesh->pipeline, r, tag_of(action)));
  }
}

}  // namespace offramp
