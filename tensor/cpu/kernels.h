// The CPU's kernels of everything but matrix products and attention. ops.cpp has checked every shape before it calls one, so
// they check nothing but what only the data can tell. Names, arguments and contracts are those of tensor/ops.h.
//
// Bits never depend on the number of threads: rows are independent, sums over rows go through partial sums of kBlockRows rows
// each, flat ranges are cut into blocks of kBlock elements.
#pragma once
#include <cstdint>

#include "tensor/ops.h"

namespace offramp::cpu {

inline constexpr std::int64_t kBlockRows = 64;
inline constexpr std::int64_t kBlock = 16384;             // elements: 64 KiB of f32, a few operands fit a core's L2 cache
inline constexpr std::int64_t kParallelElements = 32768;  // below this, waking threads costs more than it saves
constexpr std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

void rms_norm(Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps);
// partial [blocks_of(n, kBlockRows), h] f32 scratch, undefined without dgain.
void rms_norm_backward(Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain, Tensor partial);

void layer_norm(Tensor y, NormStats stats, Tensor x, Tensor gain, Tensor bias, float eps);
// partial: of each gradient that is wanted, [blocks_of(n, kBlockRows), h] f32 scratch.
void layer_norm_backward(Tensor dx, NormGradients d, Tensor dy, Tensor d_residual, Tensor x, NormStats stats, Tensor gain,
                         NormGradients partial);
// partial [blocks_of(n, kBlockRows), o] f32 scratch.
void column_sums(Tensor sum, Tensor x, Tensor partial);

void join(Tensor y, Tensor residual, Tensor branch, const Join& options);
void join_backward(Tensor d_branch, Tensor dy, const Join& options);

void rope_table(Tensor table, const RopeFrequencies& frequencies);
void rope(Tensor qkv, Tensor table, const Sequences& sequences, bool inverse);

void swiglu(Tensor y, Tensor gate_up);
void swiglu_backward(Tensor d_gate_up, Tensor dy, Tensor gate_up);
void gelu(Tensor y, Tensor x);
void gelu_backward(Tensor dx, Tensor dy, Tensor x);

void embedding(Tensor y, Tensor w, Tensor ids, std::int64_t first);
void embedding_backward(Tensor dw, Tensor dy, Tensor ids, std::int64_t first);

void softmax_stats(Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first);
void softmax_merge(Tensor stats, Tensor argmax, Tensor all);
void softmax_loss(Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels, std::int64_t first,
                  const LossOptions& options);
void softmax_soften(Tensor softened, const Scores& exit, const Scores& teacher, float temperature);
struct DistillMemory {
  Tensor softened;  // [n, 2] f32; undefined: temperature 1
  Tensor partial;   // [n, 3] f32 scratch; undefined without sums
};
void softmax_distill(Tensor sums, Tensor dlogits, const Scores& exit, const Scores& teacher, Tensor labels, Tensor targets,
                     std::int64_t first, const LossOptions& options, const DistillMemory& memory);

void adamw(Tensor weight, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW& options);
void sgd(Tensor weight, Tensor master, Tensor velocity, Tensor grad, Tensor scalars, const Sgd& options);
// partial [blocks_of(elements, kBlock)] f64 scratch.
void sum_of_squares(Tensor sum, Tensor x, Tensor partial);

// y[count] = e^x as plain loops (vector_math.h), 2^x as attention (exp.h) compute it: compiled like them, for tests of their error.
void exp_of_loops(float* y, const float* x, std::int64_t count);
void exp2_of_attention(float* y, const float* x, std::int64_t count);

void add(Tensor y, Tensor x);
void scale(Tensor y, Tensor factor);
void copy(Tensor y, Tensor x);
void fill_zero(Tensor y);

}  // namespace offramp::cpu
