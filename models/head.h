// Exit heads. A head is a body (nothing, or ordinary units), a norm (but for bare heads) and an output matrix; the final head is
// the last exit. exit() is one fused action: head forward, loss, head backward.
//
// Logits never exist for all tokens at once: the output matrix runs over chunks of tokens, and each chunk's logits become their
// own gradient in place, give their part of dx and dw, and are gone. (EE-LLM keeps an fp32 softmax of 4 * tokens * V bytes an exit.)
#pragma once
#include <vector>

#include "models/config.h"
#include "models/layers.h"

namespace offramp {

struct HeadIn {
  Tensor x;       // [n, h]
  Tensor labels;  // [n] i32, < 0: not counted
  Tensor scale;   // [1] f32: weight of this exit / counted tokens of the whole batch
};

class OutputMatrix {
 public:
  OutputMatrix(std::string logical_name, Shape shape, double deviation, double lr_scale = 1);  // [V, h]
  // x [n, h]. sums += (see LossOptions in ops.h); train: dx = (undefined: not wanted), dw +=.
  void loss(Context& ctx, Tensor dx, Tensor sums, Tensor x, Tensor labels, const LossOptions& options, bool train);
  // Tokens whose logits exist at once: never all n of them.
  static std::int64_t chunk(std::int64_t tokens, std::int64_t vocabulary);
  void visit(const Visitor& visitor) { visitor(weight_); }

 private:
  Parameter weight_;  // [V, h]
};

class Head {
 public:
  Head(ExitSpec spec, int tap, std::vector<ModulePtr> body, std::unique_ptr<Norm> norm, OutputMatrix output);
  const ExitSpec& spec() const { return spec_; }
  int tap() const { return tap_; }  // the unit whose output it reads
  // in.x is the tap. train: d_tap = (undefined: detached), gradients +=. Everything it needs in between is scratch.
  void exit(Context& ctx, Tensor d_tap, Tensor sums, const HeadIn& in, const Sequences& sequences, bool train);
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
