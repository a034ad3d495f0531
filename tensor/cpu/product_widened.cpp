// A bf16 product as an fp32 one: operands are copied to scratch as floats, a bf16 result is made there and rounded once.
#include "tensor/cpu/exp.h"
#include "tensor/cpu/parts.h"
#include "tensor/cpu/products.h"

namespace offramp::cpu {

namespace {

// What is summed into a bf16 c starts there as floats, c's own old values like a residual.
Product in_floats(const Product& p) {
  Product wide = p;
  wide.a = {.stride = stored(p.rows, p.depth, p.a).columns, .transposed = p.a.transposed};
  wide.b = {.stride = stored(p.depth, p.columns, p.b).columns, .transposed = p.b.transposed};
  if (p.c.type == DType::f32) return wide;
  wide.c = {.stride = p.columns}, wide.added = {};
  if (p.add == Add::other) wide.add = Add::itself;
  return wide;
}

struct Workspace {
  Product wide;
  float *a, *b, *bias, *c, *product;
  std::int64_t floats;
  Workspace(const Product& p, float* scratch) : wide(in_floats(p)) {
    Parts parts(scratch);
    a = parts.take(p.rows * p.depth);
    b = parts.take(p.depth * p.columns);
    bias = parts.take(p.bias ? p.columns : 0);
    c = parts.take(p.c.type == DType::bf16 ? p.rows * p.columns : 0);
    product = parts.take(product_scratch(wide));
    floats = parts.used();
  }
};

// to = from, element by element, a vector at a time.
template <class To, class From>
void convert(To* to, std::int64_t to_stride, const From* from, std::int64_t from_stride, const Stored& e) {
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < e.rows; ++i) {
    To* row = to + i * to_stride;
    const From* source = from + i * from_stride;
    std::int64_t j = 0;
    for (; j + kLanes <= e.columns; j += kLanes) store(row + j, load(source + j));
    for (; j < e.columns; ++j) row[j] = static_cast<To>(static_cast<float>(source[j]));
  }
}

void widen(float* to, const void* from, const Layout& layout, const Stored& e) {
  convert(to, e.columns, static_cast<const bf16*>(from), layout.stride, e);
}

}  // namespace

std::int64_t widened_scratch(const Product& p) { return Workspace(p, nullptr).floats; }

void widened(const Product& p, const ProductData& data, float* scratch) {
  const Workspace w(p, scratch);
  const bool rounds = p.c.type == DType::bf16;
  widen(w.a, data.a, p.a, stored(p.rows, p.depth, p.a));
  widen(w.b, data.b, p.b, stored(p.depth, p.columns, p.b));
  if (p.bias) widen(w.bias, data.bias, {}, {1, p.columns});
  if (rounds && p.add == Add::itself) widen(w.c, data.c, p.c, {p.rows, p.columns});
  if (rounds && p.add == Add::other) widen(w.c, data.added, p.added, {p.rows, p.columns});
  product(w.wide, {.c = rounds ? w.c : data.c, .a = w.a, .b = w.b, .bias = w.bias}, w.product);
  if (rounds) convert(static_cast<bf16*>(data.c), p.c.stride, w.c, p.columns, {p.rows, p.columns});
}

}  // namespace offramp::cpu
