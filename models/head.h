// Exit heads. A head is a body (nothing, or ordinary units), a norm (but for bare heads) and an output matrix; the final head is
// the last exit. exit() is one fused action: head forward, loss, head backward.
//
// Logits never exist for all tokens at once: the output matrix runs over chunks of tokens, and each chunk's logits become their
// own gradient in place, give their part of dx and dw, and are gone. (EE-LLM keeps an fp32 softmax of 4 * tokens * V bytes an exit.)
// Under tensor parallelism each rank has a range of the vocabulary; a small exchange a chunk joins the statistics of the ranges.
#pragma once
#include <vector>

#include "models/config.h"
#include "models/layers.h"

namespace offramp {

struct HeadIn {
  Tensor x;       // [rows, h]: this rank's rows of the tap
  Tensor labels;  // [n] i32, < 0: not counted; of all rows
  Tensor scale;   // [1] f32: weight of this exit / counted tokens of the whole batch
  Draws draws{};
};

class OutputMatrix {
 public:
  struct Options {
    std::string name;  // logical
    std::int64_t vocabulary = 0, hidden = 0;
    double deviation = 0.02, lr_scale = 1;
  };
  OutputMatrix(const Options& options, TensorParallel tensor);
  void logits(Context& ctx, Tensor logits, Tensor x);  // logits [n, V of this rank] f32 = of x [n, h]
  // x [rows, h]. sums += (see LossOptions in ops.h) on the first tensor rank; train: dx [rows, h] = (undefined: not wanted), dw +=.
  void loss(Context& ctx, Tensor dx, Tensor sums, Tensor x, Tensor labels, const LossOptions& options, bool train);
  // Tokens whose logits exist at once: never all n of them.
  static std::int64_t chunk(std::int64_t tokens, std::int64_t vocabulary);
  void visit(const Visitor& visitor) { visitor(weight_); }

 private:
  struct Chunk {
    Tensor logits, stats, argmax;  // [count, V], [count, 3] f32, [count] i32
  };
  Chunk scores(Context& ctx, Scratch& scope, Tensor x, Tensor labels);
  void loss_of_rows(Context& ctx, Tensor dx, Tensor sums, Tensor x, Tensor labels, const LossOptions& options, bool train);

  TensorParallel tensor_;
  VocabularyRange range_;
  Parameter weight_;  // [V, h], V of this rank
};

class Head {
 public:
  Head(ExitSpec spec, int tap, std::vector<ModulePtr> body, std::unique_ptr<Norm> norm, OutputMatrix output);
  const ExitSpec& spec() const { return spec_; }
  int tap() const { return tap_; }  // the unit whose output it reads
  // in.x is the tap, sequences those of all n tokens. train: d_tap = (undefined: detached), gradients +=. Everything it needs in
  // between is scratch.
  void exit(Context& ctx, Tensor d_tap, Tensor sums, const HeadIn& in, const Sequences& sequences, bool train);
  // logits [n, V] f32 = of all tokens of the tap x [n, h] at once: for those who look at a few. Without tensor parallelism.
  void logits(Context& ctx, Tensor logits, Tensor x, const Sequences& sequences);
  void visit(const Visitor& visitor);

 private:
  Tensor forward(Context& ctx, Tensor x, Slot& slot);  // body and norm: what the output matrix reads [n, h]
  void backward(Context& ctx, Tensor d_tap, Tensor dy, Slot& slot);

  ExitSpec spec_;
  int tap_;
  std::vector<ModulePtr> body_;
  std::unique_ptr<Norm> norm_;
  OutputMatrix output_;
};

}  // namespace offramp
