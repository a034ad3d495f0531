// This machine as a cluster of one node.
#include <omp.h>

#include <algorithm>
#include <chrono>
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

// 1 / speed = (1 + half_size / d) / peak is a line over 1 / d: two sizes give it.
void measure_products(Cluster& cluster, DType precision) {
  constexpr double kSmall = 128, kLarge = 768;
  const double small = 1 / measure_peak_flops(precision, static_cast<std::int64_t>(kSmall));
  const double large = 1 / measure_peak_flops(precision, static_cast<std::int64_t>(kLarge));
  const double slope = std::max(0.0, (small - large) / (3 / kSmall - 3 / kLarge)), least = large - slope * 3 / kLarge;
  cluster.efficiency = 1;
  cluster.half_size = slope / least;
  cluster.fp32_flops = cluster.bf16_flops = 1 / least;
}

void measure_attention(Cluster& cluster, DType precision) {
  constexpr std::int64_t kTokens = 512, kHeads = 4, kSize = 64;
  Meter meter;
  Arena nowhere(Backing::none, kUnlimited), planned(Backing::none, kUnlimited);
  Context ctx;
  ctx.scratch = &planned;
  ctx.meter = &meter;
  const Sequences sequences{.length = kTokens};
  const auto run = [&](Arena& arena) {
    const Tensor qkv = arena.tensor({kTokens, kHeads, 3, kSize}, precision), out = arena.tensor({kTokens, kHeads, 1, kSize}, precision);
    return [&ctx, &sequences, qkv, out] { attention(ctx, out, {}, qkv, sequences); };
  };
  run(nowhere)();
  Arena memory(Backing::host, nowhere.peak() + aligned(planned.peak()) + 4 * kAlignment);
  const auto work = run(memory);
  Arena scratch(memory.bytes(aligned(planned.peak())), aligned(planned.peak()), "scratch");
  ctx.scratch = &scratch;
  ctx.meter = nullptr;
  const double seconds = seconds_of_one(8, work), peak = cluster.fp32_flops;
  cluster.attention_efficiency = std::min(1.0, meter.total.flops / seconds / peak);
}

void measure_launch(Cluster& cluster) {
  std::vector<float> a(16), b(16);
  Context ctx;
  const Tensor y(a.data(), {16}, DType::f32), x(b.data(), {16}, DType::f32);
  cluster.launch = seconds_of_one(1000, [&] { copy(ctx, y, x); });
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

Cluster measure_cluster(DType precision, int threads) {
  omp_set_num_threads(threads);
  Cluster cluster;
  measure_products(cluster, precision);
  measure_attention(cluster, precision);
  measure_launch(cluster);
  cluster.memory_bandwidth = measure_peak_bytes();
  cluster.memory = static_cast<double>(host_memory());
  constexpr std::int64_t kLarge = std::int64_t{1} << 20;
  cluster.inside.latency = message_seconds(1, 200);
  cluster.inside.bandwidth = 4.0 * kLarge / std::max(message_seconds(kLarge, 8) - cluster.inside.latency, 1e-9);
  cluster.between = cluster.inside;
  cluster.ranks_per_node = 1 << 20;
  return cluster;
}

}  // namespace offramp
