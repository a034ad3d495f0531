// Every operation but the matrix products (ops_products.cpp) and what follows a head (ops_training.cpp): shapes checked, cost
// counted, scratch taken, kernel called.
#include "tensor/ops.h"

#include <algorithm>
#include <cmath>

#include "tensor/cpu/kernels.h"
#include "tensor/operation.h"

namespace offramp {

namespace {

struct Rows {
  std::int64_t n, h;
  DType dtype;
};

// What the norms have in common: x [n,h] of the working type, a gain of it, and the statistics of each row.
Rows check_norm(const Expect& expect, const Tensor& x, const Tensor& gain) {
  expect.rank(x, "x", 2);
  const Rows rows{x.shape[0], x.shape[1], expect.working(x, "x")};
  expect.tensor(x, "x", rows.dtype, x.shape);
  expect.tensor(gain, "gain", rows.dtype, {rows.h});
  return rows;
}

void check_norm_backward(const Expect& expect, const Rows& rows, const Tensor& dx, const Tensor& dy, const Tensor& d_residual) {
  expect.tensor(dy, "dy", rows.dtype, {rows.n, rows.h});
  expect.optional(dx, "dx", rows.dtype, {rows.n, rows.h});
  expect.optional(d_residual, "d_residual", rows.dtype, {rows.n, rows.h});
}

// Sums over rows go through a partial sum a block of rows, [blocks, columns].
Tensor partial_sums(Scratch& scratch, const Tensor& sum, std::int64_t rows) {
  return sum.defined() ? scratch.tensor({cpu::blocks_of(rows, cpu::kBlockRows), sum.shape[0]}, DType::f32) : Tensor{};
}

}  // namespace

void rms_norm(Context& context, Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps) {
  const Expect expect("rms_norm");
  const auto [n, h, dtype] = check_norm(expect, x, gain);
  expect.optional(y, "y", dtype, {n, h});
  expect.optional(rstd, "rstd", DType::f32, {n});
  const Operation op(context, "rms_norm", 4 * count_of(x), {y, rstd, x, gain});
  if (op.planned()) return;
  cpu::rms_norm(y, rstd, x, gain, eps);
}

void rms_norm_backward(Context& context, Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain) {
  const Expect expect("rms_norm_backward");
  const Rows rows = check_norm(expect, x, gain);
  check_norm_backward(expect, rows, dx, dy, d_residual);
  expect.f32(rstd, "rstd", {rows.n});
  expect.optional(dgain, "dgain", DType::f32, {rows.h});
  Scratch scratch(context);
  const Tensor partial = partial_sums(scratch, dgain, rows.n);
  const Operation op(context, "rms_norm_backward", 11 * count_of(x), {dx, dgain, dy, d_residual, x, rstd, gain});
  if (op.planned()) return;
  cpu::rms_norm_backward(dx, dgain, dy, d_residual, x, rstd, gain, partial);
}

void layer_norm(Context& context, Tensor y, NormStats stats, Tensor x, Tensor gain, Tensor bias, float eps) {
  const Expect expect("layer_norm");
  const auto [n, h, dtype] = check_norm(expect, x, gain);
  expect.optional(bias, "bias", dtype, {h});
  expect.optional(y, "y", dtype, {n, h});
  expect.optional(stats.mean, "mean", DType::f32, {n});
  expect.optional(stats.rstd, "rstd", DType::f32, {n});
  const Operation op(context, "layer_norm", 8 * count_of(x), {y, stats.mean, stats.rstd, x, gain, bias});
  if (op.planned()) return;
  cpu::layer_norm(y, stats, x, gain, bias, eps);
}

void layer_norm_backward(Context& context, Tensor dx, NormGradients d, Tensor dy, Tensor d_residual, Tensor x, NormStats stats,
                         Tensor gain) {
  const Expect expect("layer_norm_backward");
  const Rows rows = check_norm(expect, x, gain);
  check_norm_backward(expect, rows, dx, dy, d_residual);
  expect.f32(stats.mean, "mean", {rows.n});
  expect.f32(stats.rstd, "rstd", {rows.n});
  expect.optional(d.gain, "dgain", DType::f32, {rows.h});
  expect.optional(d.bias, "dbias", DType::f32, {rows.h});
  Scratch scratch(context);
  const NormGradients partial{.gain = partial_sums(scratch, d.gain, rows.n), .bias = partial_sums(scratch, d.bias, rows.n)};
  const Operation op(context, "layer_norm_backward", 16 * count_of(x),
                     {dx, d.gain, d.bias, dy, d_residual, x, stats.mean, stats.rstd, gain});
  if (op.planned()) return;
  cpu::layer_norm_backward(dx, d, dy, d_residual, x, stats, gain, partial);
}

void column_sums(Context& context, Tensor sum, Tensor x) {
  const Expect expect("column_sums");
  expect.rank(x, "x", 2);
  expect.rows(x, "x", expect.working(x, "x"), x.shape);
  if (!sum.defined()) return;
  expect.f32(sum, "sum", {x.shape[1]});
  Scratch scratch(context);
  const Tensor partial = partial_sums(scratch, sum, x.shape[0]);
  const Operation op(context, "column_sums", count_of(x), {sum, x});
  if (op.planned()) return;
  cpu::column_sums(sum, x, partial);
}

namespace {

void check_drop(const char* op, const char* name, const Drop& drop) {
  OFFRAMP_CHECK(drop.p >= 0 && drop.p <= 1, "[{}] {}'s p is {}, wanted a probability", op, name, drop.p);
  OFFRAMP_CHECK(drop.first_row >= 0 && drop.rows >= 0, "[{}] {}: first row {}, {} rows together", op, name, drop.first_row, drop.rows);
}

void check_join(const char* op, const Join& options) {
  check_drop(op, "dropout", options.dropout);
  check_drop(op, "layer", options.layer);
}

}  // namespace

void join(Context& context, Tensor y, Tensor residual, Tensor branch, const Join& options) {
  const Expect expect("join");
  expect.rank(branch, "branch", 2);
  const DType dtype = expect.working(branch, "branch");
  expect.tensor(branch, "branch", dtype, branch.shape);
  expect.tensor(y, "y", dtype, branch.shape);
  expect.optional(residual, "residual", dtype, branch.shape);
  expect.optional(options.bias, "bias", dtype, {branch.shape[1]});
  check_join("join", options);
  const Operation op(context, "join", 3 * count_of(y), {y, residual, branch, options.bias});
  if (op.planned()) return;
  cpu::join(y, residual, branch, options);
}

void join_backward(Context& context, Tensor d_branch, Tensor dy, const Join& options) {
  const Expect expect("join_backward");
  expect.rank(dy, "dy", 2);
  const DType dtype = expect.working(dy, "dy");
  expect.tensor(dy, "dy", dtype, dy.shape);
  check_join("join_backward", options);
  if (!d_branch.defined()) return;
  expect.tensor(d_branch, "d_branch", dtype, dy.shape);
  const Operation op(context, "join_backward", count_of(dy), {d_branch, dy});
  if (op.planned()) return;
  cpu::join_backward(d_branch, dy, options);
}

void rope_table(Context& context, Tensor table, const RopeFrequencies& frequencies) {
  const Expect expect("rope_table");
  expect.rank(table, "table", 2);
  expect.f32(table, "table", table.shape);
  OFFRAMP_CHECK(table.shape[1] % 2 == 0, "[rope_table] head size {} is odd, rotation needs pairs", table.shape[1]);
  OFFRAMP_CHECK(frequencies.theta > 0, "[rope_table] theta is {}, wanted a positive number", frequencies.theta);
  OFFRAMP_CHECK(frequencies.factor > 0 && frequencies.high > frequencies.low, "[rope_table] factor {}, low {}, high {}", frequencies.factor,
                frequencies.low, frequencies.high);
  const Operation op(context, "rope_table", count_of(table), {table});
  if (op.planned()) return;
  cpu::rope_table(table, frequencies);
}

void rope(Context& context, Tensor qkv, Tensor table, const Sequences& sequences, bool inverse) {
  const Expect expect("rope");
  expect.rank(qkv, "qkv", 4);
  expect.rank(table, "table", 2);
  const std::int64_t n = qkv.shape[0], d = qkv.shape[3], length = sequences.length;
  expect.tensor(qkv, "qkv", expect.working(qkv, "qkv"), qkv.shape);
  expect.f32(table, "table", {table.shape[0], d});
  expect.optional(sequences.positions, "positions", DType::i32, {n});
  OFFRAMP_CHECK(d % 2 == 0, "[rope] head size {} is odd, rotation needs pairs", d);
  OFFRAMP_CHECK(qkv.shape[2] >= 2, "[rope] qkv is {}, a group holds at least its key and its value", to_text(qkv.shape));
  OFFRAMP_CHECK(length > 0 && n % length == 0, "[rope] {} rows are no whole number of sequences of {}", n, length);
  OFFRAMP_CHECK(sequences.positions.defined() || length <= table.shape[0], "[rope] sequences of {}, the table has {} positions", length,
                table.shape[0]);
  const Operation op(context, "rope", 3 * count_of(qkv), {qkv, table, sequences.positions});
  if (op.planned()) return;
  cpu::rope(qkv, table, sequences, inverse);
}

void swiglu(Context& context, Tensor y, Tensor gate_up) {
  const Expect expect("swiglu");
  expect.rank(gate_up, "gate_up", 4);
  const std::int64_t n = gate_up.shape[0], blocks = gate_up.shape[1], width = gate_up.shape[3];
  const DType dtype = expect.working(gate_up, "gate_up");
  expect.tensor(gate_up, "gate_up", dtype, {n, blocks, 2, width});
  expect.tensor(y, "y", dtype, {n, blocks * width});
  const Operation op(context, "swiglu", 5 * count_of(y), {y, gate_up});
  if (op.planned()) return;
  cpu::swiglu(y, gate_up);
}

void swiglu_backward(Context& context, Tensor d_gate_up, Tensor dy, Tensor gate_up) {
  const Expect expect("swiglu_backward");
  expect.rank(gate_up, "gate_up", 4);
  const std::int64_t n = gate_up.shape[0], blocks = gate_up.shape[1], width = gate_up.shape[3];
  const DType dtype = expect.working(gate_up, "gate_up");
  expect.tensor(gate_up, "gate_up", dtype, {n, blocks, 2, width});
  expect.tensor(dy, "dy", dtype, {n, blocks * width});
  if (!d_gate_up.defined()) return;
  expect.tensor(d_gate_up, "d_gate_up", dtype, gate_up.shape);
  const Operation op(context, "swiglu_backward", 11 * count_of(dy), {d_gate_up, dy, gate_up});
  if (op.planned()) return;
  cpu::swiglu_backward(d_gate_up, dy, gate_up);
}

void gelu(Context& context, Tensor y, Tensor x) {
  const Expect expect("gelu");
  const DType dtype = expect.working(x, "x");
  expect.tensor(x, "x", dtype, x.shape);
  expect.tensor(y, "y", dtype, x.shape);
  const Operation op(context, "gelu", 8 * count_of(x), {y, x});
  if (op.planned()) return;
  cpu::gelu(y, x);
}

void gelu_backward(Context& context, Tensor dx, Tensor dy, Tensor x) {
  const Expect expect("gelu_backward");
  const DType dtype = expect.working(x, "x");
  expect.tensor(x, "x", dtype, x.shape);
  expect.tensor(dy, "dy", dtype, x.shape);
  if (!dx.defined()) return;
  expect.tensor(dx, "dx", dtype, x.shape);
  const Operation op(context, "gelu_backward", 16 * count_of(x), {dx, dy, x});
  if (op.planned()) return;
  cpu::gelu_backward(dx, dy, x);
}

void embedding(Context& context, Tensor y, Tensor w, Tensor ids, std::int64_t first) {
  const Expect expect("embedding");
  expect.rank(w, "w", 2);
  expect.rank(ids, "ids", 1);
  const std::int64_t n = ids.shape[0], h = w.shape[1];
  const DType dtype = expect.working(w, "w");
  expect.rows(w, "w", dtype, w.shape);
  expect.i32(ids, "ids", {n});
  expect.tensor(y, "y", dtype, {n, h});
  const Operation op(context, "embedding", 0, {y, y, ids});  // as much of w is read as y holds
  if (op.planned()) return;
  cpu::embedding(y, w, ids, first);
}

void embedding_backward(Context& context, Tensor dw, Tensor dy, Tensor ids, std::int64_t first) {
  const Expect expect("embedding_backward");
  expect.rank(dy, "dy", 2);
  const std::int64_t n = dy.shape[0], h = dy.shape[1];
  expect.tensor(dy, "dy", expect.working(dy, "dy"), {n, h});
  expect.i32(ids, "ids", {n});
  if (!dw.defined()) return;
  expect.rank(dw, "dw", 2);
  expect.rows(dw, "dw", DType::f32, {dw.shape[0], h});
  const Operation op(context, "embedding_backward", count_of(dy), {dy, dy, ids});
  if (op.planned()) return;
  cpu::embedding_backward(dw, dy, ids, first);
}

void add(Context& context, Tensor y, Tensor x) {
  Expect("add").alike(y, x);
  OFFRAMP_CHECK(y.dtype == x.dtype, "[add] y is {}, x is {}", name_of(y.dtype), name_of(x.dtype));
  OFFRAMP_CHECK(y.dtype != DType::i32, "[add] y is {}, wanted f32, f64 or bf16", name_of(y.dtype));
  const Operation op(context, "add", count_of(y), {y, y, x});
  if (op.planned()) return;
  cpu::add(y, x);
}

void scale(Context& context, Tensor y, Tensor factor) {
  const Expect expect("scale");
  expect.f32(y, "y", y.shape);
  expect.f32(factor, "factor", {1});
  const Operation op(context, "scale", count_of(y), {y, y});
  if (op.planned()) return;
  cpu::scale(y, factor);
}

void copy(Context& context, Tensor y, Tensor x) {
  const Expect expect("copy");
  expect.alike(y, x);
  if (y.dtype != x.dtype) expect.working(y, "y"), expect.working(x, "x");
  const Operation op(context, "copy", 0, {y, x});
  if (op.planned()) return;
  cpu::copy(y, x);
}

void fill_zero(Context& context, Tensor y) {
  OFFRAMP_CHECK(y.defined(), "[fill_zero] y is undefined");
  const Operation op(context, "fill_zero", 0, {y});
  if (op.planned()) return;
  cpu::fill_zero(y);
}

}  // namespace offramp
