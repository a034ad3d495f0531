// Every operation but the matrix products (ops_products.cpp): shapes checked, cost counted, scratch taken, kernel called.
#include "tensor/ops.h"

#include "tensor/check.h"
#include "tensor/cpu/kernels.h"

namespace offramp {
namespace {

// The checks of one operation: what a tensor must be, or the operation's name and both sides of the disagreement.
class Expect {
 public:
  explicit Expect(const char* op) : op_(op) {}

  // A defined tensor of that many dimensions; its sizes become the others' measure.
  void rank(const Tensor& t, const char* name, int rank) const {
    OFFRAMP_CHECK(t.defined(), "[{}] {} is undefined", op_, name);
    OFFRAMP_CHECK(t.shape.rank == rank, "[{}] {} is {}, wanted {} dimensions", op_, name, to_text(t.shape), rank);
  }
  void tensor(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    OFFRAMP_CHECK(t.defined(), "[{}] {} is undefined, wanted {} {}", op_, name, name_of(dtype), to_text(shape));
    OFFRAMP_CHECK(t.dtype == dtype && t.shape == shape, "[{}] {} is {} {}, wanted {} {}", op_, name, name_of(t.dtype), to_text(t.shape),
                  name_of(dtype), to_text(shape));
    OFFRAMP_CHECK(t.contiguous(), "[{}] {} {} is strided, wanted contiguous", op_, name, to_text(shape));
  }
  void f32(const Tensor& t, const char* name, const Shape& shape) const { tensor(t, name, DType::f32, shape); }
  void i32(const Tensor& t, const char* name, const Shape& shape) const { tensor(t, name, DType::i32, shape); }
  void optional(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    if (t.defined()) tensor(t, name, dtype, shape);
  }
  // Two strided tensors of one shape and type.
  void alike(const Tensor& y, const Tensor& x) const {
    OFFRAMP_CHECK(y.defined() && x.defined(), "[{}] {} is undefined", op_, y.defined() ? "x" : "y");
    OFFRAMP_CHECK(y.dtype == x.dtype && y.shape == x.shape, "[{}] y is {} {}, x is {} {}", op_, name_of(y.dtype), to_text(y.shape),
                  name_of(x.dtype), to_text(x.shape));
  }

 private:
  const char* op_;
};

// In plan mode: counts, and says that there is nothing more to do.
bool planned(Context& context, const char* op, double flops, std::initializer_list<Tensor> operands) {
  if (!context.planning()) return false;
  Cost cost{.flops = flops};
  for (const Tensor& t : operands) cost.bytes += t.defined() ? static_cast<double>(t.bytes()) : 0.0;
  context.meter->count(op, cost);
  return true;
}

double count_of(const Tensor& t) { return static_cast<double>(t.elements()); }

}  // namespace

void rms_norm(Context& context, Tensor y, Tensor rstd, Tensor x, Tensor gain, float eps) {
  const Expect expect("rms_norm");
  expect.rank(x, "x", 2);
  const std::int64_t n = x.shape[0], h = x.shape[1];
  expect.f32(x, "x", {n, h});
  expect.f32(gain, "gain", {h});
  expect.optional(y, "y", DType::f32, {n, h});
  expect.optional(rstd, "rstd", DType::f32, {n});
  if (planned(context, "rms_norm", 4 * count_of(x), {y, rstd, x, gain})) return;
  cpu::rms_norm(y, rstd, x, gain, eps);
}

void rms_norm_backward(Context& context, Tensor dx, Tensor dgain, Tensor dy, Tensor d_residual, Tensor x, Tensor rstd, Tensor gain) {
  const Expect expect("rms_norm_backward");
  expect.rank(x, "x", 2);
  const std::int64_t n = x.shape[0], h = x.shape[1];
  expect.f32(x, "x", {n, h});
  expect.f32(dy, "dy", {n, h});
  expect.f32(rstd, "rstd", {n});
  expect.f32(gain, "gain", {h});
  expect.optional(dx, "dx", DType::f32, {n, h});
  expect.optional(dgain, "dgain", DType::f32, {h});
  expect.optional(d_residual, "d_residual", DType::f32, {n, h});
  Scratch scratch(context);
  Tensor partial;  // [blocks of rows, h]
  if (dgain.defined()) partial = scratch.tensor({cpu::blocks_of(n, cpu::kBlockRows), h}, DType::f32);
  if (planned(context, "rms_norm_backward", 11 * count_of(x), {dx, dgain, dy, d_residual, x, rstd, gain})) return;
  cpu::rms_norm_backward(dx, dgain, dy, d_residual, x, rstd, gain, partial);
}

void rope_table(Context& context, Tensor table, double theta) {
  const Expect expect("rope_table");
  expect.rank(table, "table", 2);
  expect.f32(table, "table", table.shape);
  OFFRAMP_CHECK(table.shape[1] % 2 == 0, "[rope_table] head size {} is odd, rotation needs pairs", table.shape[1]);
  OFFRAMP_CHECK(theta > 0, "[rope_table] theta is {}, wanted a positive number", theta);
  if (planned(context, "rope_table", count_of(table), {table})) return;
  cpu::rope_table(table, theta);
}

void rope(Context& context, Tensor qkv, Tensor table, const Sequences& sequences, bool inverse) {
  const Expect expect("rope");
  expect.rank(qkv, "qkv", 4);
  expect.rank(table, "table", 2);
  const std::int64_t n = qkv.shape[0], d = qkv.shape[3], length = sequences.length;
  expect.f32(qkv, "qkv", qkv.shape);
  expect.f32(table, "table", {table.shape[0], d});
  expect.optional(sequences.positions, "positions", DType::i32, {n});
  OFFRAMP_CHECK(d % 2 == 0, "[rope] head size {} is odd, rotation needs pairs", d);
  OFFRAMP_CHECK(qkv.shape[2] >= 2, "[rope] qkv is {}, a group holds at least its key and its value", to_text(qkv.shape));
  OFFRAMP_CHECK(length > 0 && n % length == 0, "[rope] {} rows are no whole number of sequences of {}", n, length);
  OFFRAMP_CHECK(sequences.positions.defined() || length <= table.shape[0], "[rope] sequences of {}, the table has {} positions", length,
                table.shape[0]);
  if (planned(context, "rope", 3 * count_of(qkv), {qkv, table, sequences.positions})) return;
  cpu::rope(qkv, table, sequences, inverse);
}

void swiglu(Context& context, Tensor y, Tensor gate_up) {
  const Expect expect("swiglu");
  expect.rank(gate_up, "gate_up", 4);
  const std::int64_t n = gate_up.shape[0], blocks = gate_up.shape[1], width = gate_up.shape[3];
  expect.f32(gate_up, "gate_up", {n, blocks, 2, width});
  expect.f32(y, "y", {n, blocks * width});
  if (planned(context, "swiglu", 5 * count_of(y), {y, gate_up})) return;
  cpu::swiglu(y, gate_up);
}

void swiglu_backward(Context& context, Tensor d_gate_up, Tensor dy, Tensor gate_up) {
  const Expect expect("swiglu_backward");
  expect.rank(gate_up, "gate_up", 4);
  const std::int64_t n = gate_up.shape[0], blocks = gate_up.shape[1], width = gate_up.shape[3];
  expect.f32(gate_up, "gate_up", {n, blocks, 2, width});
  expect.f32(dy, "dy", {n, blocks * width});
  if (!d_gate_up.defined()) return;
  expect.f32(d_gate_up, "d_gate_up", gate_up.shape);
  if (planned(context, "swiglu_backward", 11 * count_of(dy), {d_gate_up, dy, gate_up})) return;
  cpu::swiglu_backward(d_gate_up, dy, gate_up);
}

void embedding(Context& context, Tensor y, Tensor w, Tensor ids, std::int64_t first) {
  const Expect expect("embedding");
  expect.rank(w, "w", 2);
  expect.rank(ids, "ids", 1);
  const std::int64_t n = ids.shape[0], h = w.shape[1];
  expect.f32(w, "w", w.shape);
  expect.i32(ids, "ids", {n});
  expect.f32(y, "y", {n, h});
  if (planned(context, "embedding", 0, {y, y, ids})) return;  // as much of w is read as y holds
  cpu::embedding(y, w, ids, first);
}

void embedding_backward(Context& context, Tensor dw, Tensor dy, Tensor ids, std::int64_t first) {
  const Expect expect("embedding_backward");
  expect.rank(dy, "dy", 2);
  const std::int64_t n = dy.shape[0], h = dy.shape[1];
  expect.f32(dy, "dy", {n, h});
  expect.i32(ids, "ids", {n});
  if (!dw.defined()) return;
  expect.rank(dw, "dw", 2);
  expect.f32(dw, "dw", {dw.shape[0], h});
  if (planned(context, "embedding_backward", count_of(dy), {dy, dy, ids})) return;
  cpu::embedding_backward(dw, dy, ids, first);
}

void softmax_stats(Context& context, Tensor stats, Tensor argmax, Tensor logits, Tensor labels, std::int64_t first) {
  const Expect expect("softmax_stats");
  expect.rank(logits, "logits", 2);
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  expect.f32(logits, "logits", {n, columns});
  expect.i32(labels, "labels", {n});
  expect.optional(stats, "stats", DType::f32, {n, 3});
  expect.optional(argmax, "argmax", DType::i32, {n});
  if (planned(context, "softmax_stats", 4 * count_of(logits), {stats, argmax, logits, labels})) return;
  cpu::softmax_stats(stats, argmax, logits, labels, first);
}

void softmax_loss(Context& context, Tensor sums, Tensor dlogits, Tensor logits, Tensor stats, Tensor argmax, Tensor labels,
                  std::int64_t first, const LossOptions& options) {
  const Expect expect("softmax_loss");
  expect.rank(logits, "logits", 2);
  const std::int64_t n = logits.shape[0], columns = logits.shape[1];
  expect.f32(logits, "logits", {n, columns});
  expect.f32(stats, "stats", {n, 3});
  expect.i32(labels, "labels", {n});
  expect.optional(sums, "sums", DType::f64, {kLossSums});
  if (sums.defined()) expect.i32(argmax, "argmax", {n});
  expect.optional(dlogits, "dlogits", DType::f32, {n, columns});
  if (dlogits.defined()) expect.f32(options.scale, "scale", {1});
  const bool gradient = dlogits.defined();  // the sums need no logits
  if (planned(context, "softmax_loss", gradient ? 4 * count_of(logits) : 0, {sums, dlogits, gradient ? logits : Tensor{}, stats, labels})) {
    return;
  }
  cpu::softmax_loss(sums, dlogits, logits, stats, argmax, labels, first, options);
}

void adamw(Context& context, Tensor weight, Tensor m, Tensor v, Tensor grad, Tensor scalars, const AdamW& options) {
  const Expect expect("adamw");
  expect.rank(weight, "weight", 1);
  for (const auto& [t, name] : {std::pair{weight, "weight"}, {m, "m"}, {v, "v"}, {grad, "grad"}}) expect.f32(t, name, weight.shape);
  expect.f32(scalars, "scalars", {4});
  if (planned(context, "adamw", 16 * count_of(weight), {weight, m, v, grad, scalars})) return;
  cpu::adamw(weight, m, v, grad, scalars, options);
}

void sgd(Context& context, Tensor weight, Tensor velocity, Tensor grad, Tensor scalars, const Sgd& options) {
  const Expect expect("sgd");
  expect.rank(weight, "weight", 1);
  expect.f32(weight, "weight", weight.shape);
  expect.f32(grad, "grad", weight.shape);
  expect.f32(scalars, "scalars", {4});
  expect.optional(velocity, "velocity", DType::f32, weight.shape);
  OFFRAMP_CHECK(velocity.defined() || options.momentum == 0, "[sgd] momentum is {}, but there is no velocity", options.momentum);
  if (planned(context, "sgd", 8 * count_of(weight), {weight, velocity, grad, scalars})) return;
  cpu::sgd(weight, velocity, grad, scalars, options);
}

void sum_of_squares(Context& context, Tensor sum, Tensor x) {
  const Expect expect("sum_of_squares");
  expect.tensor(sum, "sum", DType::f64, {1});
  expect.f32(x, "x", x.shape);
  Scratch scratch(context);
  const Tensor partial = scratch.tensor({cpu::blocks_of(x.elements(), cpu::kBlock)}, DType::f64);
  if (planned(context, "sum_of_squares", 2 * count_of(x), {sum, x})) return;
  cpu::sum_of_squares(sum, x, partial);
}

void add(Context& context, Tensor y, Tensor x) {
  Expect("add").alike(y, x);
  OFFRAMP_CHECK(y.dtype == DType::f32 || y.dtype == DType::f64, "[add] y is {}, wanted f32 or f64", name_of(y.dtype));
  if (planned(context, "add", count_of(y), {y, x})) return;
  cpu::add(y, x);
}

void copy(Context& context, Tensor y, Tensor x) {
  Expect("copy").alike(y, x);
  if (planned(context, "copy", 0, {y, x})) return;
  cpu::copy(y, x);
}

void fill_zero(Context& context, Tensor y) {
  OFFRAMP_CHECK(y.defined(), "[fill_zero] y is undefined");
  if (planned(context, "fill_zero", 0, {y})) return;
  cpu::fill_zero(y);
}

}  // namespace offramp
