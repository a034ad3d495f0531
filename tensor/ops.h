// Every operation once: free functions over tensors. Outputs first, then inputs, then options.
//
//   "=" assigned, "+=" accumulated; an undefined output is not computed, an undefined input has no effect.
//   n tokens (rows), h hidden, o outputs, V vocabulary, s tokens a sequence, d head size, G key-value groups, q query heads a group.
//
// ops.cpp checks shapes, counts the cost in plan mode, takes the scratch an operation needs (so that the plan sees it) and
// dispatches once to the device's folder. Everything is deterministic: the order of every sum is fixed by the shapes, that of matrix
// products by shapes, strides and the number of threads.
#pragma once
#include "tensor/context.h"

namespace offramp {

// ---- matrix products (fp32). Rows may be strided (a narrow of a wider matrix); the last dimension has stride 1.

// y[n,o] = x[n,h] w[o,h]^T (+ residual[n,o]).
void linear(Context&, Tensor y, Tensor x, Tensor w, Tensor residual = {});
// dx[n,h] = dy[n,o] w[o,h].
void linear_backward_input(Context&, Tensor dx, Tensor dy, Tensor w);
// dw[o,h] += dy[n,o]^T x[n,h].
void linear_backward_weight(Context&, Tensor dw, Tensor dy, Tensor x);

// ---- RMSNorm:  y = x * rstd * gain,  rstd = 1 / sqrt(mean(x^2) + eps).  x, y [n,h]; rstd [n]; gain [h].

void rms_norm(Context&, Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps);
// dx = d_residual + rms_norm'(dy): the branch joins the residual stream here. dx may be d_residual or dy itself.
// dgain[h] +=.
void rms_norm_backward(Context&, Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain);

// ---- attention over one fused buffer. qkv [n, G, 2+q, d]: a group holds its key, its value, then its q query heads.

// Which keys a token sees: those of its own sequence, at or before it, and not before first_key[token].
struct Sequences {
  std::int64_t length = 0;  // tokens a sequence, s; n is a multiple of it
  Tensor positions;         // [n] i32 rotary position; undefined: row mod s
  Tensor first_key;         // [n] i32 first visible row within the token's sequence; undefined: 0
};
// out [n, G, q, d] = softmax(q k^T / sqrt(d)) v, causal.  lse [G*q, n] f32: log-sum-exp of each row, for the backward.
void attention(Context&, Tensor out, Tensor lse, Tensor qkv, const Sequences&);
// d_qkv [n, G, 2+q, d] =.  No buffer of s x s per head is ever kept: probabilities are made again from lse, a block at a time.
void attention_backward(Context&, Tensor d_qkv, Tensor d_out, Tensor out, Tensor lse, Tensor qkv, const Sequences&);

// table [max_position, d] f32 =: cos of d/2 angles, then sin of them; angle i = position * theta^(-2i/d).
void rope_table(Context&, Tensor table, double theta);
// Rotates the key and the query heads of qkv [n, G, 2+q, d] in place (Hugging Face's half-split pairs i, i + d/2).
// inverse: by the negative angle, which is the backward.
void rope(Context&, Tensor qkv, Tensor table, const Sequences&, bool inverse);

// ---- SwiGLU. gate_up [n, blocks, 2, B]: within a block B gate columns, then B up columns. y [n, blocks * B] = silu(gate) * up.
void swiglu(Context&, Tensor y, Tensor gate_up);
// d_gate_up =; may be gate_up itself.
void swiglu_backward(Context&, Tensor d_gate_up, Tensor dy, Tensor gate_up);

// ---- embedding. ids [n] i32, w [rows, h]. `first`: the vocabulary row that w starts at; ids outside w's rows give zeros.
void embedding(Context&, Tensor y, Tensor w, Tensor ids, std::int64_t first = 0);
// dw += in token order.
void embedding_backward(Context&, Tensor dw, Tensor dy, Tensor ids, std::int64_t first = 0);

// ---- the loss of a head, in three steps so that models/ can put a vocabulary-parallel exchange between them.
// `first`: the vocabulary row that column 0 of logits stands for. A label < 0 is not counted (masked or padding).

// stats [n,3] f32 =: maximum, sum of exp(logit - maximum), the label's logit (-inf where the label is outside). argmax [n] i32 =.
void softmax_stats(Context&, Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first = 0);

// What one exit sums over counted tokens, f64 [4], +=: cross-entropy in nats | the same weighted by confidence (equal to it
// without confidence weights) | tokens whose argmax is the label | counted tokens.
inline constexpr int kLossSums = 4;
struct LossOptions {
  Tensor scale;                     // [1] f32 on the device: weight of this exit / counted tokens of the whole batch
  bool confidence_weights = false;  // weigh each token by its own detached max softmax probability
};
// dlogits [n,V] = scale * c_i * (softmax(logits) - onehot(label)); may be logits itself; undefined: sums only.
void softmax_loss(Context&, Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels, std::int64_t first,
                  const LossOptions&);

// ---- optimizers, on flat ranges. scalars [4] f32 on the device: learning rate, clip factor (0: touch nothing), and Adam's two
// bias corrections 1 - beta1^t, 1 - beta2^t. Decay is decoupled and comes first: p -= lr * weight_decay * p.
struct AdamW {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0, lr_scale = 1;
  // Rounded from the double 1 - beta: 1 minus the rounded beta2 = 0.9999 would be wrong by 2e-4 of itself.
  float one_minus_beta1 = 0.1f, one_minus_beta2 = 0.05f;
};
void adamw(Context&, Tensor weight, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW&);
struct Sgd {
  float momentum = 0, weight_decay = 0, lr_scale = 1;
  bool nesterov = false;
};
// velocity = momentum * velocity + clipped grad; undefined without momentum.
void sgd(Context&, Tensor weight, Tensor velocity, Tensor grad, Tensor scalars, const Sgd&);

// sum [1] f64 += sum of squares of x, in a fixed order. NaN and infinity stay visible in it.
void sum_of_squares(Context&, Tensor sum, Tensor x);

// ---- plain memory
void add(Context&, Tensor y, Tensor x);   // y += x
void copy(Context&, Tensor y, Tensor x);  // y = x; both may be strided
void fill_zero(Context&, Tensor y);       // y = 0

}  // namespace offramp
