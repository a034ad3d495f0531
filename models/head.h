// Exit heads. A head is a body (nothing, or ordinary units), a norm (but for bare heads) and an output matrix; the final head is
// the last exit. exit() is one fused action: head forward, loss, head backward.
//
// Logits never exist for all tokens at once: the output matrix runs over chunks of tokens, and each chunk's logits become their
// own gradient in place, give their part of dx and dw, and are gone. (EE-LLM keeps an fp32 softmax of 4 * tokens * V bytes an exit.)
// Under tensor parallelism each rank has a range of the vocabulary; a small exchange a chunk joins the statistics of the ranges.
//
// Split over a pipeline as well (PipelinePart), an exit is five calls instead: tap() and untap() where the exit stands, and on every
// pipeline rank scores(), scores_backward() and scores_weight_gradient() of its part. What they exchange, their caller moves. There
// the logits of a rank's part exist for all tokens.
#pragma once
#include <optional>
#include <vector>

#include "models/config.h"
#include "models/layers.h"

namespace offramp {

class OutputMatrix;

// The model's own final head, which an exit may learn from and is measured by: what its output matrix reads, and a copy of that matrix.
// Its logits are made again beside the exit's, of the same tokens and range of the vocabulary, and it gets no gradient.
struct Teacher {
  Tensor x{};  // [rows, h]: this rank's rows of what the final norm gave; undefined: there is no teacher
  OutputMatrix* output = nullptr;
};

struct HeadIn {
  Tensor x;       // [rows, h]: this rank's rows of the tap
  Tensor labels;  // [n] i32, < 0: not counted; of all rows
  Tensor scale;   // [1] f32: weight of this exit / counted tokens of the whole batch
  Draws draws{};
  Teacher teacher{};               // of whatever width
  std::optional<Target> target{};  // what it learns here in place of its own
  float temperature = 1;           // at which it learns a distribution
  float label_weight = 0;          // of the labels' loss beside a distribution's
  Subnet subnet{};                 // that the head's body runs too
};

// What a head's scores are compared with.
struct Goal {
  Tensor labels;  // as in HeadIn
  Target target = Target::labels;
  Teacher teacher{};  // of every target but the labels; with them it only measures
};

// Which of how many parts of every output matrix a pipeline rank has; 0 of 1: they are not split over the pipeline.
struct PipelinePart {
  int part = 0, parts = 1;
};

// What one part of a split head works on, between its calls.
struct ScoresIn {
  Tensor x;       // [rows, h]: this rank's rows of what tap() gave
  Tensor labels;  // [n] i32 of all rows
  Tensor logits;  // [n, part of V] f32; from scores_backward() on their gradient
};

class OutputMatrix {
 public:
  struct Options {
    std::string name;  // logical
    std::int64_t vocabulary = 0, hidden = 0;
    double deviation = 0.02, lr_scale = 1;
    PipelinePart pipeline{};
  };
  OutputMatrix(const Options& options, TensorParallel tensor);
  void logits(Context& ctx, Tensor logits, Tensor x);  // logits [n, V of this rank] f32 = of x [n, h]
  // x [rows, h]. sums += (kLossSums in ops.h), each tensor rank its part; train: dx [rows, h] = (undefined: not wanted), dw +=.
  void loss(Context& ctx, Tensor dx, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options, bool train);
  // A part of a split head. statistics [4 n] f32 =: of each token maximum, sum of exponentials and the label's logit, then the bits of
  // the argmax; of the parts of all tensor ranks.
  void scores(Context& ctx, Tensor statistics, const ScoresIn& in);
  // From the statistics of all pipeline ranks [parts, 4 n]: share [rows, h] =, this part's share of the gradient of x (undefined: in
  // evaluation), and in.logits become their gradient. sums += (undefined: another part counts).
  void scores_backward(Context& ctx, Tensor share, Tensor sums, const ScoresIn& in, Tensor statistics, const LossOptions& options);
  void scores_weight_gradient(Context& ctx, const ScoresIn& in);
  std::int64_t vocabulary() const { return range_.count; }  // of this rank
  // Tokens whose logits exist at once: never all n of them.
  static std::int64_t chunk(std::int64_t tokens, std::int64_t vocabulary);
  void visit(const Visitor& visitor) { visitor(weight_); }

 private:
  Scores scores(Context& ctx, Scratch& scope, Tensor x, Tensor targets);
  void loss_of_rows(Context& ctx, Tensor dx, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options, bool train);
  // What softmax_distill() needs of both at a temperature, of the whole vocabulary.
  Tensor soften(Context& ctx, Scratch& scope, const Scores& own, const Scores& teacher, float temperature) const;
  // The scores of a chunk of tokens, their loss, and its gradient (undefined: not wanted).
  Tensor loss_of_chunk(Context& ctx, Scratch& scope, Tensor sums, Tensor x, const Goal& goal, const LossOptions& options, bool train);
  Tensor all_rows(Context& ctx, Scratch& scope, Tensor x, std::int64_t tokens) const;
  // What of the matrix belongs to x [rows, h or less]: the first columns.
  static Tensor columns_of(const Tensor& matrix, const Tensor& x) { return matrix.narrow(1, 0, x.shape[1]); }

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
  // Where the output matrix is split over the pipeline: top [rows, h] = what it reads, of the tap in.x; the slot keeps what untap() needs.
  void tap(Context& ctx, Tensor top, Tensor x, Slot& slot);
  // d_tap = (undefined: detached) from d_top [rows, h], which it may overwrite; gradients of norm and body +=.
  void untap(Context& ctx, Tensor d_tap, Tensor d_top, Slot& slot);
  OutputMatrix& output() { return output_; }
  const OutputMatrix& output() const { return output_; }
  // logits [n, V] f32 = of all tokens of the tap x [n, h] at once: for those who look at a few. Without tensor parallelism.
  void logits(Context& ctx, Tensor logits, Tensor x, const Sequences& sequences, const Subnet& subnet = {});
  void visit(const Visitor& visitor);
  void visit_below_output(const Visitor& visitor);  // body and norm

 private:
  // Body and norm: what the output matrix reads [rows, h], in `top` where that is given (else in the slot, or x itself).
  Tensor forward(Context& ctx, Tensor x, Slot& slot, Tensor top = {});
  void backward(Context& ctx, Tensor d_tap, Tensor dy, Slot& slot);

  ExitSpec spec_;
  int tap_;
  std::vector<ModulePtr> body_;
  std::unique_ptr<Norm> norm_;
  OutputMatrix output_;
};

}  // namespace offramp
