// A product of a slice of a wider weight. Rows that lie apart take the library off its fastest path; a dense copy costs little where many
// rows are multiplied by it, and makes the product that of a narrower model, to the bits. bench/slices.cpp measures both.
#include <cstring>

#include "tensor/cpu/parts.h"
#include "tensor/cpu/products.h"

namespace offramp::cpu {
namespace {

constexpr std::int64_t kFewestRows = 64;                                 // below, the copy costs more than it gains
constexpr std::int64_t kMostFloats = std::int64_t{8} * 1024 * 1024 / 4;  // of a copy that caches hold: beyond, it gains nothing

Stored slice_of(const Product& p) { return stored(p.depth, p.columns, p.b); }

std::int64_t floats_of(const Product& p) {
  return (slice_of(p).elements() * static_cast<std::int64_t>(size_of(p.b.type)) + 3) / static_cast<std::int64_t>(sizeof(float));
}

struct Workspace {
  Product dense;
  float *copy, *product;
  std::int64_t floats;
  Workspace(const Product& p, float* scratch) : dense(p) {
    dense.b.stride = slice_of(p).columns;
    Parts parts(scratch);
    copy = parts.take(floats_of(p));
    product = parts.take(product_scratch(dense));
    floats = parts.used();
  }
};

}  // namespace

bool packs(const Product& p) {
  return p.weight && p.b.stride > slice_of(p).columns && p.rows >= kFewestRows && floats_of(p) <= kMostFloats;
}

std::int64_t packed_scratch(const Product& p) { return Workspace(p, nullptr).floats; }

void packed(const Product& p, const ProductData& data, float* scratch) {
  const Workspace w(p, scratch);
  const Stored slice = slice_of(p);
  const auto bytes_of = [&](std::int64_t elements) { return elements * static_cast<std::int64_t>(size_of(p.b.type)); };
  const auto* from = static_cast<const std::byte*>(data.b);
  auto* to = reinterpret_cast<std::byte*>(w.copy);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < slice.rows; ++i)
    std::memcpy(to + bytes_of(i * slice.columns), from + bytes_of(i * p.b.stride), static_cast<std::size_t>(bytes_of(slice.columns)));
  ProductData with_copy = data;
  with_copy.b = to;
  product(w.dense, with_copy, w.product);
}

}  // namespace offramp::cpu
