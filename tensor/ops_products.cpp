// Matrix products and attention: checks, cost, scratch, dispatch.
#include <algorithm>

#include "tensor/cpu/products.h"
#include "tensor/operation.h"
#include "tensor/ops.h"

namespace offramp {

namespace {

// ---- products

cpu::Layout layout_of(const Tensor& t, bool transposed = false) {
  // With a single row any stride is right; a canonical one keeps oneDNN content.
  const std::int64_t stride = t.shape[0] == 1 ? t.shape[1] : t.stride[0];
  return {stride, transposed, t.dtype};
}

struct Operands {
  Tensor c, a, b;
  LinearAdd add = {};
};

void run(Context& ctx, const char* name, const cpu::Product& p, const Operands& t) {
  if (p.rows == 0 || p.columns == 0) return;
  OFFRAMP_CHECK(p.depth > 0, "[{}] a sum over no elements: {} x {} x {}", name, p.rows, p.columns, p.depth);
  Scratch scratch(ctx);
  const Tensor workspace = scratch.tensor({cpu::product_scratch(p)}, DType::f32);
  const Tensor& added = p.add == cpu::Add::itself ? t.c : t.add.residual;
  const auto m = static_cast<double>(p.rows), n = static_cast<double>(p.columns), k = static_cast<double>(p.depth);
  Cost cost = ctx.meter || ctx.profile ? cost_of(2 * m * n * k, {t.c, t.a, t.b, t.add.bias, added}) : Cost{};
  cost.product = {m, n, k};
  const Operation op(ctx, name, cost);
  if (op.planned()) return;
  cpu::product(p, {.c = t.c.data, .a = t.a.data, .b = t.b.data, .bias = t.add.bias.data, .added = t.add.residual.data},
               workspace.as<float>());
}

}  // namespace

void linear(Context& ctx, Tensor y, Tensor x, Tensor w, const LinearAdd& add) {
  const Expect expect("linear");
  expect.rank(x, "x", 2), expect.rank(w, "w", 2);
  const auto n = x.shape[0], h = x.shape[1], o = w.shape[0];
  const DType type = expect.working(x, "x");
  const bool logits = y.dtype == DType::f32 && !add.bias.defined() && !add.residual.defined();
  expect.rows(x, "x", type, {n, h});
  expect.rows(w, "w", type, {o, h});
  expect.rows(y, "y", logits ? DType::f32 : type, {n, o});
  expect.optional(add.bias, "bias", type, {o});
  cpu::Product p = {.rows = n, .columns = o, .depth = h, .a = layout_of(x), .b = layout_of(w, true), .c = layout_of(y)};
  p.bias = add.bias.defined(), p.weight = true;
  if (const Tensor& residual = add.residual; residual.defined()) {
    expect.rows(residual, "residual", type, {n, o});
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
  const Expect expect("linear_backward_input");
  expect.rank(dy, "dy", 2), expect.rank(w, "w", 2);
  const auto n = dy.shape[0], o = dy.shape[1], h = w.shape[1];
  const DType type = expect.working(dy, "dy");
  expect.rows(dy, "dy", type, {n, o});
  expect.rows(w, "w", type, {o, h});
  expect.rows(dx, "dx", type, {n, h});
  cpu::Product p = {.rows = n, .columns = h, .depth = o, .a = layout_of(dy), .b = layout_of(w), .c = layout_of(dx)};
  p.weight = true;
  run(ctx, "linear_backward_input", p, {dx, dy, w});
}

void linear_backward_weight(Context& ctx, Tensor dw, Tensor dy, Tensor x) {
  if (!dw.defined()) return;
  const Expect expect("linear_backward_weight");
  expect.rank(dy, "dy", 2), expect.rank(x, "x", 2);
  const auto n = dy.shape[0], o = dy.shape[1], h = x.shape[1];
  const DType type = expect.working(dy, "dy");
  expect.rows(dy, "dy", type, {n, o});
  expect.rows(x, "x", type, {n, h});
  expect.rows(dw, "dw", DType::f32, {o, h});
  if (n == 0) return;  // nothing to add
  run(ctx, "linear_backward_weight",
      {.rows = o, .columns = h, .depth = n, .a = layout_of(dy, true), .b = layout_of(x), .c = layout_of(dw), .add = cpu::Add::itself},
      {dw, dy, x});
}

// ---- attention

namespace {

cpu::AttentionShape shape_of(const Expect& expect, const char* op, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                             const Sequences& sequences) {
  expect.rank(qkv, "qkv", 4);
  OFFRAMP_CHECK(qkv.shape[2] > 2, "[{}] qkv {} must be [n, G, 2+q, d]", op, to_text(qkv.shape));
  const auto n = qkv.shape[0], groups = qkv.shape[1], queries = qkv.shape[2] - 2, size = qkv.shape[3];
  const auto length = sequences.length;
  OFFRAMP_CHECK(length > 0 && n % length == 0, "[{}] {} tokens are no multiple of sequences of {}", op, n, length);
  const DType type = expect.working(qkv, "qkv");
  expect.rows(qkv, "qkv", type, qkv.shape);
  expect.rows(out, "out", type, {n, groups, queries, size});
  expect.optional(sequences.first_key, "first_key", DType::i32, {n});
  if (lse.defined()) expect.rows(lse, "lse", DType::f32, {groups * queries, n});
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
  const Tensor workspace = scratch.tensor({cpu::attention_scratch<T>(a, drop.p > 0)}, DType::f32);
  const Operation op(ctx, "attention", causal_flops(a), {out, lse, qkv});
  if (op.planned()) return;
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
  const Tensor workspace = scratch.tensor({cpu::attention_backward_scratch<T>(a, drop.p > 0)}, DType::f32);
  const Operation op(ctx, "attention_backward", 2.5 * causal_flops(a), {t.d_qkv, t.d_out, t.out, t.lse, t.qkv});
  if (op.planned()) return;
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
  const auto a = shape_of(Expect("attention"), "attention", qkv, out, lse, sequences);
  check_drop("attention", drop);
  if (qkv.dtype == DType::bf16) return run_attention<bf16>(ctx, a, out, lse, qkv, sequences, drop);
  run_attention<float>(ctx, a, out, lse, qkv, sequences, drop);
}

void attention_backward(Context& ctx, Tensor d_qkv, Tensor d_out, Tensor out, Tensor lse, Tensor qkv, const Sequences& sequences,
                        const AttentionDrop& drop) {
  if (!d_qkv.defined()) return;
  OFFRAMP_CHECK(lse.defined(), "[attention_backward] lse is undefined: the forward must keep it");
  const Expect expect("attention_backward");
  const auto a = shape_of(expect, "attention_backward", qkv, out, lse, sequences);
  expect.rows(d_qkv, "d_qkv", qkv.dtype, qkv.shape);
  expect.rows(d_out, "d_out", qkv.dtype, out.shape);
  check_drop("attention_backward", drop);
  const AttentionTensors tensors = {d_qkv, d_out, out, lse, qkv};
  if (qkv.dtype == DType::bf16) return run_attention_backward<bf16>(ctx, a, tensors, sequences, drop);
  run_attention_backward<float>(ctx, a, tensors, sequences, drop);
}

}  // namespace offramp
