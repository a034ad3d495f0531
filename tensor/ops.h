// Every operation once: free functions over tensors. Outputs first, then inputs, then options.
//
//   "=" assigned, "+=" accumulated; an undefined output is not computed, an undefined input has no effect.
//   n tokens (rows), h hidden, o outputs, V vocabulary, s tokens a sequence, d head size, G key-value groups, q query heads a group.
//   A: the working type, f32 or bf16, of activations, their gradients and weights; one type in a call. Gradients of parameters,
//   statistics and whatever says so are f32 always. bf16 is widened when read and rounded once when written.
//
// ops.cpp checks shapes, counts the cost in plan mode, takes the scratch an operation needs (so that the plan sees it) and
// dispatches once to the device's folder. Everything is deterministic: the order of every sum is fixed by the shapes, that of matrix
// products by shapes, strides and the number of threads.
#pragma once
#include "tensor/context.h"
#include "tensor/random.h"

namespace offramp {

// ---- matrix products. Rows may be strided (a narrow of a wider matrix); the last dimension has stride 1. Sums are fp32.

struct LinearAdd {
  Tensor bias;      // [o] A
  Tensor residual;  // [n,o] A; may be y itself
};
// y[n,o] = x[n,h] w[o,h]^T + bias + residual. With bf16 operands y may be f32 (logits), then without bias and residual.
void linear(Context&, Tensor y, Tensor x, Tensor w, const LinearAdd& add = {});
// dx[n,h] = dy[n,o] w[o,h].
void linear_backward_input(Context&, Tensor dx, Tensor dy, Tensor w);
// dw[o,h] f32 += dy[n,o]^T x[n,h].
void linear_backward_weight(Context&, Tensor dw, Tensor dy, Tensor x);
// sum[o] f32 += the rows of x[n,o] A: a bias's gradient.
void column_sums(Context&, Tensor sum, Tensor x);

// ---- RMSNorm:  y = x * rstd * gain,  rstd = 1 / sqrt(mean(x^2) + eps).  x, y [n,h] A; rstd [n] f32; gain [h] A.

void rms_norm(Context&, Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps);
// dx = d_residual + rms_norm'(dy): the branch joins the residual stream here. dx may be d_residual or dy itself.
// dgain[h] f32 +=.
void rms_norm_backward(Context&, Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain);

// ---- LayerNorm:  y = (x - mean) * rstd * gain + bias,  rstd = 1 / sqrt(mean((x - mean)^2) + eps).  mean, rstd [n] f32.

struct NormStats {
  Tensor mean, rstd;
};
void layer_norm(Context&, Tensor y, NormStats stats, Tensor x, Tensor gain, Tensor bias, float eps);
// As rms_norm_backward; dbias[h] f32 +=.
struct NormGradients {
  Tensor gain, bias;
};
void layer_norm_backward(Context&, Tensor dx, NormGradients d, Tensor dy, Tensor d_residual, Tensor x, NormStats stats, Tensor gain);

// ---- random omission. Whether something falls depends on (key, its global number) alone, so on no layout.

struct Drop {
  float p = 0;  // the chance to fall; 0: nothing does
  Key key;
  // rows = 0: each element by itself, number (first_row + row) * columns + column; what stays is multiplied by 1 / (1 - p).
  // rows > 0: so many rows together (a sample), number (first_row + row) / rows; what stays is left as it is.
  std::int64_t first_row = 0, rows = 0;
};
// The decision itself, for whoever must know it beforehand.
inline bool falls(const Drop& drop, std::uint64_t number) { return drop.p > 0 && uniform(drop.key, number) < drop.p; }

// How a branch joins the residual stream: y = residual + layer(dropout(branch + bias)). Shapes [n,h] A, bias [h] A; an undefined
// residual counts as zeros. y may be residual or branch.
struct Join {
  Tensor bias;
  Drop dropout, layer;
};
void join(Context&, Tensor y, Tensor residual, Tensor branch, const Join&);
// d_branch = what of dy reaches the branch; may be dy. (The residual's gradient is dy, the bias's column_sums of d_branch.)
void join_backward(Context&, Tensor d_branch, Tensor dy, const Join&);

// ---- attention over one fused buffer. qkv [n, G, 2+q, d] A: a group holds its key, its value, then its q query heads.

// Which keys a token sees: those of its own sequence, at or before it, and not before first_key[token].
struct Sequences {
  std::int64_t length = 0;  // tokens a sequence, s; n is a multiple of it
  Tensor positions;         // [n] i32 position within the document; undefined: row mod s
  Tensor first_key;         // [n] i32 first visible row within the token's sequence; undefined: 0
};
// Dropout of attention probabilities: number ((sample * heads + head) * s + row) * s + key, with the global head
// (first_group + local group * group_step) * q + query and the global sample first_sample + local sequence.
struct AttentionDrop {
  float p = 0;
  Key key;
  std::int64_t first_sample = 0, heads = 0, first_group = 0, group_step = 1;
};
// out [n, G, q, d] A = dropout(softmax(q k^T / sqrt(d))) v, causal.  lse [G*q, n] f32: log-sum-exp of each row, for the backward.
// With bf16, probabilities and their gradients are rounded to bf16 before they are multiplied; sums are fp32.
void attention(Context&, Tensor out, Tensor lse, Tensor qkv, const Sequences&, const AttentionDrop& drop = {});
// d_qkv [n, G, 2+q, d] A =.  No buffer of s x s per head is ever kept: probabilities are made again from lse, a block at a time.
void attention_backward(Context&, Tensor d_qkv, Tensor d_out, Tensor out, Tensor lse, Tensor qkv, const Sequences&,
                        const AttentionDrop& drop = {});

// The angles by which the pairs of a head of d elements turn from one position to the next: f_i = theta^(-2i/d). Llama 3's way to
// longer sequences divides by `factor` those that turn less than `low` times over the original positions, leaves those that turn
// more than `high` times, and goes from one to the other linearly in the number of turns. factor 1: nothing is changed.
struct RopeFrequencies {
  double theta = 10000;
  double factor = 1, low = 1, high = 4, original_positions = 8192;
  double at(std::int64_t i, std::int64_t d) const;
};
// table [max_position, d] f32 =: cos of d/2 angles, then sin of them; angle i = position * f_i.
void rope_table(Context&, Tensor table, const RopeFrequencies& frequencies);
// Rotates the key and the query heads of qkv [n, G, 2+q, d] A in place (Hugging Face's half-split pairs i, i + d/2).
// inverse: by the negative angle, which is the backward.
void rope(Context&, Tensor qkv, Tensor table, const Sequences&, bool inverse);

// ---- SwiGLU. gate_up [n, blocks, 2, B] A: within a block B gate columns, then B up columns. y [n, blocks * B] A = silu(gate) * up.
void swiglu(Context&, Tensor y, Tensor gate_up);
// d_gate_up =; may be gate_up itself.
void swiglu_backward(Context&, Tensor d_gate_up, Tensor dy, Tensor gate_up);

// ---- GELU, tanh form:  y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).  Shapes [n, f] A.
void gelu(Context&, Tensor y, Tensor x);
// dx = dy gelu'(x); may be x or dy itself.
void gelu_backward(Context&, Tensor dx, Tensor dy, Tensor x);

// ---- embedding. ids [n] i32, w [rows, h] A, whose rows may be strided, as dw's. `first`: the vocabulary row that w starts at; ids outside
// w's rows give zeros.
void embedding(Context&, Tensor y, Tensor w, Tensor ids, std::int64_t first = 0);
// dw f32 += in token order.
void embedding_backward(Context&, Tensor dw, Tensor dy, Tensor ids, std::int64_t first = 0);

// ---- the loss of a head, in steps so that models/ can put a vocabulary-parallel exchange between them.
// `first`: the vocabulary row that column 0 of logits stands for. A label < 0 is not counted (masked or padding).

// logits [n,V] f32. stats [n,3] f32 =: maximum, sum of exp(logit - maximum), the label's logit (-inf where the label is outside).
// argmax [n] i32 =.
void softmax_stats(Context&, Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first = 0);
// Joins the statistics of several vocabulary ranges, in their order: all [ranges, 4n] f32 holds of each range its stats [n,3], then
// the bits of its argmax [n] i32. stats, argmax =. Of equal maxima the first range's wins, as of equal logits the first does.
void softmax_merge(Context&, Tensor stats, Tensor argmax, Tensor all);

// What one exit sums over counted tokens, f64 [6], +=: the label's cross-entropy in nats | the loss that is trained: the same, or the
// cross-entropy with what the exit learns from a teacher, weighted by confidence if that is asked for | tokens whose argmax is the
// label | counted tokens | expected acceptance, the sum over the vocabulary of min(p_teacher, p) | tokens whose argmax is the teacher's.
// The last two stay 0 without a teacher.
inline constexpr int kLossSums = 6;
struct LossOptions {
  Tensor scale;                     // [1] f32 on the device: weight of this exit / counted tokens of the whole batch
  bool confidence_weights = false;  // weigh each token by its own detached max softmax probability
  float temperature = 1;            // at which softmax_distill() compares two distributions; all else is at 1
  float labels = 0;                 // weight of the labels' loss that softmax_distill() adds to a distribution's
};
// dlogits [n,V] A = scale * c_i * (softmax(logits) - onehot(label)); if f32 may be logits itself; undefined: sums only.
void softmax_loss(Context&, Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels, std::int64_t first,
                  const LossOptions&);

// A range of the vocabulary with the statistics of the whole of it, as softmax_stats() or softmax_merge() left them.
struct Scores {
  Tensor logits, stats, argmax;  // [n,V] f32, [n,3] f32, [n] i32
};
// softened [n,2] f32 =: the sums over this range of e^((logit - maximum) / temperature) of exit and teacher. Those of all ranges add up.
void softmax_soften(Context&, Tensor softened, const Scores& exit, const Scores& teacher, float temperature);
// softmax_loss() beside a teacher q, whose logits are of the same tokens and range: from one reading of both come the loss, its gradient
// and the two measures of how far the teacher would accept the exit's p. What is learned are
//   targets [n] i32, whose logits the exit's statistics name: the labels themselves, or the teacher's argmax: to the bits of
//   softmax_loss(); undefined: the teacher's distribution: the loss is - sum_v q log p, dlogits = scale * c_i * (p - q), and the statistics
//   name the labels'. At a temperature T other than 1 both are softened, p_T ~ p^(1/T): the loss is T^2 times theirs, dlogits =
//   scale * c_i * T * (p_T - q_T), which is about as large at every T (Hinton et al., arXiv 1503.02531), and `softened` are the sums that
//   softmax_soften() found in the whole vocabulary. The measures, and c_i, stay those of p and q. With a weight of the labels (`labels`)
//   their loss is learned besides: it, and its gradient at a temperature of 1, are added so many times.
// c_i is the exit's own confidence with every target. A label < 0 is not counted, whatever the target is.
// sums: sums over the vocabulary are this range's part, and what is known of a whole row is added where first is 0: so those of all
// ranges add up to the exit's.
void softmax_distill(Context&, Tensor sums, Tensor dlogits, const Scores& exit, const Scores& teacher, Tensor labels, Tensor targets,
                     std::int64_t first, const LossOptions&, Tensor softened = {});

// ---- optimizers, on flat ranges. scalars [4] f32 on the device: learning rate, clip factor (0: touch nothing), and Adam's two
// bias corrections 1 - beta1^t, 1 - beta2^t. Decay is decoupled and comes first: p -= lr * weight_decay * p.
// weight A; master f32: the weight in full precision, from which a bf16 weight is rounded; undefined where weight is f32 itself.
struct AdamW {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0, lr_scale = 1;
  // Rounded from the double 1 - beta: 1 minus the rounded beta2 = 0.9999 would be wrong by 2e-4 of itself.
  float one_minus_beta1 = 0.1f, one_minus_beta2 = 0.05f;
};
void adamw(Context&, Tensor weight, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW&);
struct Sgd {
  float momentum = 0, weight_decay = 0, lr_scale = 1;
  bool nesterov = false;
};
// velocity = momentum * velocity + clipped grad; undefined without momentum.
void sgd(Context&, Tensor weight, Tensor master, Tensor velocity, Tensor grad, Tensor scalars, const Sgd&);

// sum [1] f64 += sum of squares of x f32, in a fixed order. NaN and infinity stay visible in it.
void sum_of_squares(Context&, Tensor sum, Tensor x);

// ---- plain memory
void add(Context&, Tensor y, Tensor x);         // y += x: f32, f64 or bf16, x of y's type
void scale(Context&, Tensor y, Tensor factor);  // y *= factor: f32, factor [1] f32
void copy(Context&, Tensor y, Tensor x);        // y = x; both may be strided; between f32 and bf16 it converts
void fill_zero(Context&, Tensor y);             // y = 0

}  // namespace offramp
