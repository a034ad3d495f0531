// Matrix products and attention on the CPU. tensor/ops_products.cpp has checked the shapes and takes the scratch, whose size these
// functions tell without touching any operand, so that plan mode asks the same questions as a real run.
//
//   const Product p = {.rows = n, .columns = o, .depth = h, .a = {h}, .b = {h, true}, .c = {o}};   // c[n,o] = a[n,h] b[o,h]^T
//   Tensor workspace = scratch.tensor({product_scratch(p)}, DType::f32);
//   product(p, {.c = y.data, .a = x.data, .b = w.data}, workspace.as<float>());
#pragma once
#include <compare>
#include <cstdint>

#include "tensor/ops.h"

namespace offramp::cpu {

// How a matrix lies in memory: row-major with `stride` elements from one stored row to the next. transposed: the product reads the
// stored matrix's columns as its rows.
struct Layout {
  std::int64_t stride = 0;
  bool transposed = false;
  DType type = DType::f32;  // or bf16
  auto operator<=>(const Layout&) const = default;
};

// Rows and columns as they lie in memory.
struct Stored {
  std::int64_t rows, columns;
  std::int64_t elements() const { return rows * columns; }
};
inline Stored stored(std::int64_t rows, std::int64_t columns, const Layout& layout) {
  return layout.transposed ? Stored{columns, rows} : Stored{rows, columns};
}

// c[rows, columns] = a[rows, depth] b[depth, columns], plus what `add` says. Everything is summed in fp32 and rounded once. a and b
// have one type.
enum class Add { nothing, itself, other };  // c as it was, or another matrix laid out like `added`
struct Product {
  std::int64_t rows = 0, columns = 0, depth = 0;
  Layout a, b, c, added;
  Add add = Add::nothing;
  bool bias = false;    // also one number a column, of a's type
  bool weight = false;  // b is a weight, of which a copy may be made; activations and gradients are read where they lie
  auto operator<=>(const Product&) const = default;
};

// Floats of scratch the product needs with the present number of threads.
std::int64_t product_scratch(const Product&);
struct ProductData {
  void* c = nullptr;
  const void *a = nullptr, *b = nullptr;
  const void *bias = nullptr, *added = nullptr;  // read where the Product has them
};
void product(const Product&, const ProductData&, float* scratch);

// The same for bf16 operands by way of fp32 copies of them: for processors without bf16 instructions.
std::int64_t widened_scratch(const Product&);
void widened(const Product&, const ProductData&, float* scratch);

// The same where b is a slice of a wider weight, by way of a dense copy of it; packs(): that pays.
bool packs(const Product&);
std::int64_t packed_scratch(const Product&);
void packed(const Product&, const ProductData&, float* scratch);

// Exact causal attention of `sequences` sequences; ops.h says how the buffers are laid out. *_stride: elements a token.
struct AttentionShape {
  std::int64_t sequences = 0, length = 0, groups = 0, queries = 0, size = 0;  // queries: heads a group; size: of a head
  std::int64_t qkv_stride = 0, out_stride = 0, lse_stride = 0;                // lse: elements a head
};

// Floats of scratch with the present number of threads: proportional to it and to the length of one sequence. drops: with dropout.
template <class T>
std::int64_t attention_scratch(const AttentionShape&, bool drops);
template <class T>
std::int64_t attention_backward_scratch(const AttentionShape&, bool drops);

// T: float or bf16, of which qkv, out and their gradients are made.
template <class T>
struct AttentionData {
  T* out = nullptr;
  float* lse = nullptr;  // or null: not kept
  const T* qkv = nullptr;
  const std::int32_t* first_key = nullptr;  // or null: every key from 0 on
  AttentionDrop drop = {};
};
template <class T>
void attention(const AttentionShape&, const AttentionData<T>&, float* scratch);

template <class T>
struct AttentionGradient {
  T* d_qkv = nullptr;  // laid out like qkv, but for its stride
  const T* d_out = nullptr;
  std::int64_t d_qkv_stride = 0, d_out_stride = 0;
  const T* out = nullptr;
  const float* lse = nullptr;
  const T* qkv = nullptr;
  const std::int32_t* first_key = nullptr;
  AttentionDrop drop = {};
};
template <class T>
void attention_backward(const AttentionShape&, const AttentionGradient<T>&, float* scratch);

}  // namespace offramp::cpu
