// Matrix products by oneDNN's matmul primitive. A primitive is made once a shape, thread and thread count (a fraction of a
// millisecond), then only run; its scratchpad is ours. Against dnnl_sgemm, which allocates for itself, it is within a few percent on
// this project's shapes, and ahead for large weight gradients.
// With several threads oneDNN may divide a long sum (small weight gradients over many tokens) between them: the bits of a product
// depend on its shape, its strides and the number of threads, and on nothing else.
// bf16 without the processor's own instructions for it is three times slower than fp32 here, and without AVX-512 it is refused: there
// operands are widened first (product_widened.cpp).
#include <omp.h>

#include <dnnl.hpp>
#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "tensor/check.h"
#include "tensor/cpu/products.h"

namespace offramp::cpu {

namespace {

using dnnl::memory;

// All but the primitive itself is known without code generation: enough for a plan.
struct Entry {
  dnnl::matmul::primitive_desc description;
  std::optional<dnnl::matmul> primitive;
  std::unordered_map<int, memory> operands;
};

constexpr int kAdded = DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1;

// oneDNN and the plan have one engine a thread: ranks that are threads of one process share nothing.
dnnl::engine& engine() {
  thread_local dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::stream& stream() {
  thread_local dnnl::stream in_order(engine());
  return in_order;
}

memory::desc matrix(std::int64_t rows, std::int64_t columns, const Layout& layout) {
  const memory::dims strides = layout.transposed ? memory::dims{1, layout.stride} : memory::dims{layout.stride, 1};
  return memory::desc({rows, columns}, layout.type == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32, strides);
}

memory::desc bias_of(const Product& p) { return matrix(1, p.columns, {.stride = p.columns, .type = p.a.type}); }

dnnl::matmul::primitive_desc describe(const Product& p) {
  dnnl::post_ops after;
  if (p.add == Add::itself) after.append_sum(1.0f);
  if (p.add == Add::other) after.append_binary(dnnl::algorithm::binary_add, matrix(p.rows, p.columns, p.added));
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_post_ops(after);
  const memory::desc a = matrix(p.rows, p.depth, p.a), b = matrix(p.depth, p.columns, p.b), c = matrix(p.rows, p.columns, p.c);
  if (!p.bias) return {{a, b, c}, attributes, engine()};
  return {{a, b, bias_of(p), c}, attributes, engine()};
}

// The thread count belongs to the key because oneDNN divides the work, and its scratchpad, when the primitive is made.
Entry& entry_of(const Product& p) {
  thread_local std::map<std::pair<Product, int>, Entry> entries;
  const auto [at, is_new] = entries.try_emplace({p, omp_get_max_threads()});
  if (is_new) at->second.description = describe(p);
  return at->second;
}

void prepare(Entry& e, const Product& p) {
  const auto& d = e.description;
  e.primitive.emplace(d);
  e.operands.emplace(DNNL_ARG_SRC, memory(d.src_desc(), engine(), nullptr));
  e.operands.emplace(DNNL_ARG_WEIGHTS, memory(d.weights_desc(), engine(), nullptr));
  e.operands.emplace(DNNL_ARG_DST, memory(d.dst_desc(), engine(), nullptr));
  e.operands.emplace(DNNL_ARG_SCRATCHPAD, memory(d.scratchpad_desc(), engine(), nullptr));
  if (p.bias) e.operands.emplace(DNNL_ARG_BIAS, memory(bias_of(p), engine(), nullptr));
  if (p.add == Add::other) e.operands.emplace(kAdded, memory(matrix(p.rows, p.columns, p.added), engine(), nullptr));
}

// oneDNN's handles are not const, even those of what it only reads.
void set(Entry& e, int operand, const void* data) { e.operands.at(operand).set_data_handle(const_cast<void*>(data)); }

// One boundary for the library's exceptions: they become ours, with the sizes.
template <class F>
auto checked(const Product& p, F work) {
  try {
    return work();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) {
      fail(Exit::memory,
           "no memory is left for a matrix product {} x {} x {}: reduce training.micro_batch_size, or run fewer ranks on this host", p.rows,
           p.columns, p.depth);
    }
    throw Error(Exit::internal, fmt::format("[product] {} x {} x {}, strides {}, {}, {}: oneDNN: {} (status {})", p.rows, p.columns,
                                            p.depth, p.a.stride, p.b.stride, p.c.stride, error.message, static_cast<int>(error.status)));
  }
}

bool library_has(const Product& p) {
  constexpr auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return p.a.type == DType::f32 || (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

}  // namespace

std::int64_t product_scratch(const Product& p) {
  if (!library_has(p)) return widened_scratch(p);
  if (packs(p)) return packed_scratch(p);
  return checked(p, [&] { return static_cast<std::int64_t>((entry_of(p).description.scratchpad_desc().get_size() + 3) / sizeof(float)); });
}

void product(const Product& p, const ProductData& data, float* scratch) {
  if (!library_has(p)) return widened(p, data, scratch);
  if (packs(p)) return packed(p, data, scratch);
  checked(p, [&] {
    Entry& e = entry_of(p);
    if (!e.primitive) prepare(e, p);
    set(e, DNNL_ARG_SRC, data.a);
    set(e, DNNL_ARG_WEIGHTS, data.b);
    set(e, DNNL_ARG_DST, data.c);
    set(e, DNNL_ARG_SCRATCHPAD, scratch);
    if (p.bias) set(e, DNNL_ARG_BIAS, data.bias);
    if (p.add == Add::other) set(e, kAdded, data.added);
    e.primitive->execute(stream(), e.operands);
    stream().wait();
  });
}

}  // namespace offramp::cpu
