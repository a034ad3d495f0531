// Speed of the matrix products and of attention at a small model's shapes, in GFLOP/s:  OMP_NUM_THREADS=2 bench_products
// Attention counts the causal half only, so 100% of the product's speed would need a triangle without waste and a free softmax.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "bench/time_of.h"
#include "tensor/ops.h"
#include "tensor/random.h"

namespace offramp {
namespace {

struct Bench {
  Arena arena{Backing::host, std::size_t{512} << 20}, scratch{Backing::host, std::size_t{64} << 20};
  Context context;
  Bench() { context.scratch = &scratch; }

  Tensor random(Shape shape, DType type) {
    const Tensor t = arena.tensor(shape, type);
    for (std::int64_t i = 0; i < t.elements(); ++i) {
      const float value = uniform({}, static_cast<std::uint64_t>(i)) - 0.5f;
      if (type == DType::bf16)
        t.as<bf16>()[i] = bf16(value);
      else
        t.as<float>()[i] = value;
    }
    return t;
  }
};

struct Sizes {
  std::int64_t n, h, o;
};

double products(const Sizes& s, DType type) {
  Bench b;
  const Tensor x = b.random({s.n, s.h}, type), w = b.random({s.o, s.h}, type), bias = b.random({s.o}, type);
  const Tensor y = b.random({s.n, s.o}, type), r = b.random({s.n, s.o}, type);
  const Tensor logits = b.random({s.n, s.o}, DType::f32), dw = b.random({s.o, s.h}, DType::f32);
  const double flops = 2e-9 * static_cast<double>(s.n * s.h * s.o);
  const double forward = flops / time_of([&] { linear(b.context, y, x, w); });
  const double added = flops / time_of([&] { linear(b.context, y, x, w, {bias, r}); });
  const double to_f32 = flops / time_of([&] { linear(b.context, logits, x, w); });
  const double input = flops / time_of([&] { linear_backward_input(b.context, x, y, w); });
  const double weight = flops / time_of([&] {
                          fill_zero(b.context, dw);  // else it grows until it overflows
                          linear_backward_weight(b.context, dw, y, x);
                        });
  fmt::print("{:4} n {:5} h {:5} o {:5}   forward {:6.1f}   bias, residual {:6.1f}   logits {:6.1f}   dx {:6.1f}   dw {:6.1f}\n",
             name_of(type), s.n, s.h, s.o, forward, added, to_f32, input, weight);
  return forward;
}

struct Heads {
  std::int64_t sequences, length, groups, queries, size;
};

void attentions(const Heads& a, DType type, double product) {
  Bench b;
  const std::int64_t n = a.sequences * a.length, heads = a.groups * a.queries;
  const Tensor qkv = b.random({n, a.groups, 2 + a.queries, a.size}, type), d_qkv = b.random(qkv.shape, type);
  const Tensor out = b.random({n, a.groups, a.queries, a.size}, type), d_out = b.random(out.shape, type);
  const Tensor lse = b.random({heads, n}, DType::f32);
  const Sequences sequences = {.length = a.length};
  const double flops = 2e-9 * static_cast<double>(n * a.length * heads * a.size);
  const auto speeds = [&](const AttentionDrop& drop) {
    const double forward = flops / time_of([&] { attention(b.context, out, lse, qkv, sequences, drop); });
    const double backward = 2.5 * flops / time_of([&] { attention_backward(b.context, d_qkv, d_out, out, lse, qkv, sequences, drop); });
    return fmt::format("forward {:6.1f} ({:3.0f}%) backward {:6.1f} ({:3.0f}%)", forward, 100 * forward / product, backward,
                       100 * backward / product);
  };
  fmt::print("{:4} batch {} s {:4} groups {} x {} d {:3}   {}   with dropout {}\n", name_of(type), a.sequences, a.length, a.groups,
             a.queries, a.size, speeds({}), speeds({.p = 0.1f, .heads = heads}));
}

// The fastest forward at a small model's shapes.
double all_products(DType type) {
  double best = 0;
  for (const Sizes& s : {Sizes{512, 256, 768},
                         {1024, 256, 768},
                         {1024, 256, 1376},
                         {1024, 688, 256},
                         {1024, 256, 8192},
                         {1024, 512, 1536},
                         {2048, 512, 512},
                         {2048, 512, 2752},
                         {2048, 1376, 512},
                         {2048, 512, 8192}})
    best = std::max(best, products(s, type));
  return best;
}

}  // namespace
}  // namespace offramp

int main() {
  using namespace offramp;
  fmt::print("GFLOP/s, {} threads\n", omp_get_max_threads());
  for (const DType type : {DType::f32, DType::bf16}) {
    const double best = all_products(type);
    for (const Heads& a :
         {Heads{4, 256, 4, 2, 32}, {4, 256, 4, 2, 64}, {4, 512, 4, 2, 32}, {4, 512, 4, 2, 64}, {4, 512, 8, 1, 64}, {1, 512, 1, 8, 64}})
      attentions(a, type, best);
  }
}
