// This machine as a cluster of one node.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "comm/in_process.h"
#include "tensor/ops.h"
#include "trainer/cluster_file.h"
#include "trainer/job.h"

namespace offramp {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F>
double seconds_of_one(int times, F work) {
  work();
  const double begin = now();
  for (int i = 0; i < times; ++i) work();
  return (now() - begin) / times;
}

double sum_over(const Group& ranks, double value) {
  Context ctx;
  all_reduce(ctx, Tensor(&value, {1}, DType::f64), ranks).wait(ctx);
  return value;
}

// What `measure` gives, in the mean over ranks that begin at once: alone, a core would be faster than it is in training.
template <class F>
double together(const Group& ranks, F measure) {
  sum_over(ranks, 0);
  return sum_over(ranks, measure()) / ranks.size();
}

// Seconds of one FLOP of the operation that make(context, arena) gives, on operands that it allocates. These take turns, so that they
// come from memory, not from a cache.
template <class Make>
double seconds_per_flop(Make make) {
  constexpr std::size_t kOperands = 64 << 20;  // bytes
  Meter meter;
  Arena nowhere(Backing::none, kUnlimited), planned(Backing::none, kUnlimited);
  Context ctx;
  ctx.scratch = &planned;
  ctx.meter = &meter;
  make(ctx, nowhere)();
  const std::size_t one = nowhere.peak() + 4 * kAlignment, borrowed = aligned(planned.peak()) + kAlignment;
  Arena memory(Backing::host, kOperands + one + borrowed);
  Arena scratch(memory.bytes(borrowed), borrowed, "scratch");
  ctx.scratch = &scratch;
  ctx.meter = nullptr;
  std::vector<std::function<void()>> works;
  while (memory.capacity() - memory.used() >= one) works.push_back(make(ctx, memory));
  std::vector<double> passes(15);
  for (double& seconds : passes) {  // the first takes the memory's pages
    const double begin = now();
    for (const auto& work : works) work();
    seconds = now() - begin;
  }
  std::ranges::nth_element(passes, passes.begin() + 7);
  return passes[7] / static_cast<double>(works.size()) / meter.total.flops;
}

double product_seconds(DType precision, std::int64_t n) {
  return seconds_per_flop([&](Context& ctx, Arena& arena) {
    const auto matrix = [&] { return arena.tensor({n, n}, precision); };
    return [&ctx, y = matrix(), x = matrix(), w = matrix()] { linear(ctx, y, x, w); };
  });
}

double attention_seconds(DType precision) {
  constexpr std::int64_t kTokens = 512, kHeads = 4, kSize = 64;
  const Sequences sequences{.length = kTokens};
  return seconds_per_flop([&](Context& ctx, Arena& arena) {
    const Tensor qkv = arena.tensor({kTokens, kHeads, 3, kSize}, precision), out = arena.tensor({kTokens, kHeads, 1, kSize}, precision);
    return [&ctx, &sequences, qkv, out] { attention(ctx, out, {}, qkv, sequences); };
  });
}

// 1 / speed = (1 + half_size / d) / peak is a line over 1 / d: two sizes give it.
void measure_products(Cluster& cluster, DType precision, const Group& ranks) {
  constexpr std::int64_t kSmall = 128, kLarge = 768;
  const double small = together(ranks, [&] { return product_seconds(precision, kSmall); });
  const double large = together(ranks, [&] { return product_seconds(precision, kLarge); });
  const double slope = std::max(0.0, (small - large) / (3.0 / kSmall - 3.0 / kLarge)), least = large - slope * 3 / kLarge;
  cluster.efficiency = 1;
  cluster.half_size = slope / least;
  cluster.fp32_flops = cluster.bf16_flops = 1 / least;
}

double launch_seconds() {
  std::vector<float> a(16), b(16);
  Context ctx;
  const Tensor y(a.data(), {16}, DType::f32), x(b.data(), {16}, DType::f32);
  return seconds_of_one(1000, [&] { copy(ctx, y, x); });
}

// To and fro between two threads.
double message_seconds(std::int64_t elements, int times) {
  double seconds = 0;
  run_in_process(2, [&](Group world) {
    std::vector<float> memory(static_cast<std::size_t>(elements));
    const Tensor t(memory.data(), {elements}, DType::f32);
    Context ctx;
    const double one = seconds_of_one(times, [&] {
      if (world.rank() == 0) send(ctx, t, world, 1, kGatherTag).wait(ctx);
      receive(ctx, t, world, 1 - world.rank(), kGatherTag).wait(ctx);
      if (world.rank() == 1) send(ctx, t, world, 0, kGatherTag).wait(ctx);
    });
    if (world.rank() == 0) seconds = one / 2;
  });
  return seconds;
}

}  // namespace

Cluster measure_cluster(DType precision, int threads, int ranks) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  Cluster cluster;
  run_in_process(std::clamp(cores / std::max(1, threads), 1, ranks), [&](const Group& all) {
    omp_set_num_threads(threads);
    Cluster mine;
    measure_products(mine, precision, all);
    mine.attention_efficiency = std::min(1.0, 1 / together(all, [&] { return attention_seconds(precision); }) / mine.fp32_flops);
    mine.launch = together(all, launch_seconds);
    mine.memory_bandwidth = 1 / together(all, [] { return 1 / measure_peak_bytes(); });
    if (all.rank() == 0) cluster = mine;
  });
  cluster.memory = static_cast<double>(host_memory());
  constexpr std::int64_t kLarge = std::int64_t{1} << 20;
  cluster.inside.latency = message_seconds(1, 200);
  cluster.inside.bandwidth = 4.0 * kLarge / std::max(message_seconds(kLarge, 8) - cluster.inside.latency, 1e-9);
  cluster.between = cluster.inside;
  cluster.ranks_per_node = 1 << 20;
  return cluster;
}

}  // namespace offramp
