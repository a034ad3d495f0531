// Matrix products and attention: checks, cost, scratch, dispatch.
#include <omp.h>

#include <algorithm>

#include "tensor/check.h"
#include "tensor/cpu/products.h"
#include "tensor/ops.h"

namespace offramp {

namespace {

// ---- checks

void check_type(const char* op, const char* name, const Tensor& t, DType type, const Shape& shape) {
  OFFRAMP_CHECK(t.dtype == type && t.shape == shape, "[{}] {} is {} {}, must be {} {}", op, name, name_of(t.dtype), to_text(t.shape),
                name_of(type), to_text(shape));
}

void check_matrix(const char* op, const char* name, const Tensor& t, DType type, std::int64_t rows, std::int64_t columns) {
  check_type(op, name, t, type, {rows, columns});
  OFFRAMP_CHECK(t.stride[1] == 1 || columns == 1, "[{}] {} {} has stride {} in its last dimension, must be 1", op, name, to_text(t.shape),
                t.stride[1]);
  OFFRAMP_CHECK(t.stride[0] >= columns || rows == 1, "[{}] {} {} has rows {} apart, which overlap", op, name, to_text(t.shape),
                t.stride[0]);
}

std::int64_t dimension(const char* op, const char* name, const Tensor& t, int which) {
  OFFRAMP_CHECK(t.shape.rank == 2, "[{}] {} {} must be a matrix", op, name, to_text(t.shape));
  return t.shape[which];
}

// The working type: that of the first operand, which the others must have too.
DType working_type(const char* op, const char* name, const Tensor& t) {
  OFFRAMP_CHECK(t.dtype == DType::f32 || t.dtype == DType::bf16, "[{}] {} is {}, must be f32 or bf16", op, name, name_of(t.dtype));
  return t.dtype;
}

// A token's part must be contiguous; tokens themselves may be any distance apart.
void check_tokens(const char* op, const char* name, const Tensor& t, DType type, const Shape& want) {
  check_type(op, name, t, type, want);
  OFFRAMP_CHECK(t.narrow(0, 0, std::min<std::int64_t>(1, t.shape[0])).contiguous(), "[{}] {} {}: a token's elements must be contiguous", op,
                name, to_text(t.shape));
}

// ---- products

double bytes_of(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& t : tensors) bytes += t.defined() ? static_cast<double>(t.bytes()) : 0.0;
  return bytes;
}

cpu::Layout layout_of(const Tensor& t, bool transposed = false) {
  // With a single row any stride is right; a canonical one keeps oneDNN content.
  const std::int64_t stride = t.shape[0] == 1 ? t.shape[1] : t.stride[0];
  return {stride, transposed, t.dtype};
}

struct Operands {
  Tensor c, a, b;
  LinearAdd add = {};
};

void run(Context& ctx, const char* op, const cpu::Product& p, const Operands& t) {
  if (p.rows == 0 || p.columns == 0) return;
  OFFRAMP_CHECK(p.depth > 0, "[{}] a sum over no elements: {} x {} x {}", op, p.rows, p.columns, p.depth);
  Scratch scratch(ctx);
  const Tensor workspace = scratch.tensor({cpu::product_scratch(p)}, DType::f32);
  if (ctx.planning()) {
    const Tensor& added = p.add == cpu::Add::itself ? t.c : t.add.residual;
    ctx.meter->count(op, {.flops = 2.0 * static_cast<double>(p.rows) * static_cast<double>(p.columns) * static_cast<double>(p.depth),
                          .bytes = bytes_of({t.c, t.a, t.b, t.add.bias, added})});
    return;
  }
  cpu::product(p, {.c = t.c.data, .a = t.a.data, .b = t.b.data, .bias = t.add.bias.data, .added = t.add.residual.data},
               workspace.as<float>());
}

}  // namespace

void linear(Context& ctx, Tensor y, Tensor x, Tensor w, const LinearAdd& add) {
  const auto n = dimension("linear", "x", x, 0), h = dimension("linear", "x", x, 1), o = dimension("linear", "w", w, 0);
  const DType type = working_type("linear", "x", x);
  const bool logits = y.dtype == DType::f32 && !add.bias.defined() && !add.residual.defined();
  check_matrix("linear", "x", x, type, n, h);
  check_matrix("linear", "w", w, type, o, h);
  check_matrix("linear", "y", y, logits ? DType::f32 : type, n, o);
  cpu::Product p = {.rows = n, .columns = o, .depth = h, .a = layout_of(x), .b = layout_of(w, true), .c = layout_of(y)};
  if (const Tensor& bias = add.bias; bias.defined()) {
    check_type("linear", "bias", bias, type, {o});
    OFFRAMP_CHECK(bias.contiguous(), "[linear] bias has stride {}, must be 1", bias.stride[0]);
    p.bias = true;
  }
  if (const Tensor& residual = add.residual; residual.defined()) {
    check_matrix("linear", "residual", residual, type, n, o);
    const bool same = residual.data == y.data;
    OFFRAMP_CHECK(!same || layout_of(residual) == layout_of(y), "[linear] residual begins where y does, but has rows {} apart, not {}",
                  residual.stride[0], y.stride[0]);
    p.add = same ? cpu::Add::itself : cpu::Add::other;
    if (!same) p.added = layout_of(residual);
  }
  run(ctx, "linear", p, {y, x, w, add});
}

void linear_backward_input(Context& ctx, Tensor dx, Tensor dy, Tensor w) {
  if (!dx.defined()) return;
  const auto n = dimension("linear_backward_input", "dy", dy, 0), o = dimension("linear_backward_input", "dy", dy, 1);
  const auto h = dimension("linear_backward_input", "w", w, 1);
  const DType type = working_type("linear_backward_input", "dy", dy);
  check_matrix("linear_backward_input", "dy", dy, type, n, o);
  check_matrix("linear_backward_input", "w", w, type, o, h);
  check_matrix("linear_backward_input", "dx", dx, type, n, h);
  run(ctx, "linear_backward_input", {.rows = n, .columns = h, .depth = o, .a = layout_of(dy), .b = layout_of(w), .c = layout_of(dx)},
      {dx, dy, w});
}

void linear_backward_weight(Context& ctx, Tensor dw, Tensor dy, Tensor x) {
  if (!dw.defined()) return;
  const auto n = dimension("linear_backward_weight", "dy", dy, 0), o = dimension("linear_backward_weight", "dy", dy, 1);
  const auto h = dimension("linear_backward_weight", "x", x, 1);
  const DType type = working_type("linear_backward_weight", "dy", dy);
  check_matrix("linear_backward_weight", "dy", dy, type, n, o);
  check_matrix("linear_backward_weight", "x", x, type, n, h);
  check_matrix("linear_backward_weight", "dw", dw, DType::f32, o, h);
  if (n == 0) return;  // nothing to add
  run(ctx, "linear_backward_weight",
      {.rows = o, .columns = h, .depth = n, .a = layout_of(dy, true), .b = layout_of(x), .c = layout_of(dw), .add = cpu::Add::itself},
      {dw, dy, x});
}

// ---- attention

namespace {

cpu::AttentionShape shape_of(const char* op, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Sequences& sequences) {
  OFFRAMP_CHECK(qkv.shape.rank == 4 && qkv.shape[2] > 2, "[{}] qkv {} must be [n, G, 2+q, d]", op, to_text(qkv.shape));
  const auto n = qkv.shape[0], groups = qkv.shape[1], queries = qkv.shape[2] - 2, size = qkv.shape[3];
  const auto length = sequences.length;
  OFFRAMP_CHECK(length > 0 && n % length == 0, "[{}] {} tokens are no multiple of sequences of {}", op, n, length);
  const DType type = working_type(op, "qkv", qkv);
  check_tokens(op, "qkv", qkv, type, qkv.shape);
  check_tokens(op, "out", out, type, {n, groups, queries, size});
  const Tensor& first = sequences.first_key;
  OFFRAMP_CHECK(!first.defined() || (first.dtype == DType::i32 && first.shape == Shape{n} && first.contiguous()),
                "[{}] first_key is {} {}, must be contiguous i32 [{}]", op, name_of(first.dtype), to_text(first.shape), n);
  if (lse.defined()) check_matrix(op, "lse", lse, DType::f32, groups * queries, n);
  return {.sequences = n / length,
          .length = length,
          .groups = groups,
          .queries = queries,
          .size = size,
          .qkv_stride = qkv.stride[0],
          .out_stride = out.stride[0],
          .lse_stride = lse.defined() ? layout_of(lse).stride : 0};
}

// The half of 4 n s d a query head that a causal mask leaves; a document mask is not known when a run is planned.
double causal_flops(const cpu::AttentionShape& a) {
  return 2.0 * static_cast<double>(a.sequences * a.length) * static_cast<double>(a.length) *
         static_cast<double>(a.groups * a.queries * a.size);
}

const std::int32_t* first_key_of(const Sequences& sequences) {
  return sequences.first_key.defined() ? sequences.first_key.as<std::int32_t>() : nullptr;
}

void check_drop(const char* op, const AttentionDrop& drop) {
  OFFRAMP_CHECK(drop.p >= 0 && drop.p < 1 && (drop.p == 0 || drop.heads > 0), "[{}] dropout of {} in {} heads", op, drop.p, drop.heads);
}

template <class T>
void run_attention(Context& ctx, const cpu::AttentionShape& a, const Tensor& out, const Tensor& lse, const Tensor& qkv,
                   const Sequences& sequences, const AttentionDrop& drop) {
  Scratch scratch(ctx);
  const Tensor workspace = scratch.tensor({omp_get_max_threads(), cpu::attention_scratch<T>(a, drop.p > 0)}, DType::f32);
  if (ctx.planning()) return ctx.meter->count("attention", {.flops = causal_flops(a), .bytes = bytes_of({out, lse, qkv})});
  cpu::attention<T>(a,
                    {.out = out.as<T>(),
                     .lse = lse.defined() ? lse.as<float>() : nullptr,
                     .qkv = qkv.as<T>(),
                     .first_key = first_key_of(sequences),
                     .drop = drop},
                    workspace.as<float>());
}

struct AttentionTensors {
  Tensor d_qkv, d_out, out, lse, qkv;
};

template <class T>
void run_attention_backward(Context& ctx, const cpu::AttentionShape& a, const AttentionTensors& t, const Sequences& sequences,
                            const AttentionDrop& drop) {
  Scratch scratch(ctx);
  const Tensor workspace = scratch.tensor({omp_get_max_threads(), cpu::attention_backward_scratch<T>(a, drop.p > 0)}, DType::f32);
  if (ctx.planning())
    return ctx.meter->count("attention_backward",
                            {.flops = 2.5 * causal_flops(a), .bytes = bytes_of({t.d_qkv, t.d_out, t.out, t.lse, t.qkv})});
  cpu::attention_backward<T>(a,
                             {.d_qkv = t.d_qkv.as<T>(),
                              .d_out = t.d_out.as<T>(),
                              .d_qkv_stride = t.d_qkv.stride[0],
                              .d_out_stride = t.d_out.stride[0],
                              .out = t.out.as<T>(),
                              .lse = t.lse.as<float>(),
                              .qkv = t.qkv.as<T>(),
                              .first_key = first_key_of(sequences),
                              .drop = drop},
                             workspace.as<float>());
}

}  // namespace

void attention(Context& ctx, Tensor out, Tensor lse, Tensor qkv, const Sequences& sequences, const AttentionDrop& drop) {
  const auto a = shape_of("attention", qkv, out, lse, sequences);
  check_drop("attention", drop);
  if (qkv.dtype == DType::bf16) return run_attention<bf16>(ctx, a, out, lse, qkv, sequences, drop);
  run_attention<float>(ctx, a, out, lse, qkv, sequences, drop);
}

void attention_backward(Context& ctx, Tensor d_qkv, Tensor d_out, Tensor out, Tensor lse, Tensor qkv, const Sequences& sequences,
                        const AttentionDrop& drop) {
  if (!d_qkv.defined()) return;
  OFFRAMP_CHECK(lse.defined(), "[attention_backward] lse is undefined: the forward must keep it");
  const auto a = shape_of("attention_backward", qkv, out, lse, sequences);
  check_tokens("attention_backward", "d_qkv", d_qkv, qkv.dtype, qkv.shape);
  check_tokens("attention_backward", "d_out", d_out, qkv.dtype, out.shape);
  check_drop("attention_backward", drop);
  const AttentionTensors tensors = {d_qkv, d_out, out, lse, qkv};
  if (qkv.dtype == DType::bf16) return run_attention_backward<bf16>(ctx, a, tensors, sequences, drop);
  run_attention_backward<float>(ctx, a, tensors, sequences, drop);
}

}  // namespace offramp
