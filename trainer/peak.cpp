// What this rank's share of the processor can do, for the logged utilisation and the profile's floors: the mean speed of a few
// products that fit its caches, and of copies that do not, while all ranks measure (the best one would be that of a core which other
// ranks had left alone for a moment).
#include <chrono>

#include "trainer/job.h"

namespace offramp {
namespace {

template <class F>
double seconds_of(int times, F work) {
  work();  // the first one also compiles the kernel, or takes the memory's pages
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double measure_peak_flops(DType precision, std::int64_t n) {
  constexpr int kTries = 16;
  Meter meter;
  Arena nowhere(Backing::none, kUnlimited), planned(Backing::none, kUnlimited);
  Context planning;
  planning.scratch = &planned;
  planning.meter = &meter;
  const auto matrix = [&](Arena& arena) { return arena.tensor({n, n}, precision); };
  linear(planning, matrix(nowhere), matrix(nowhere), matrix(nowhere));

  Arena memory(Backing::host, 3 * aligned(static_cast<std::size_t>(n * n) * size_of(precision)) + aligned(planned.peak()));
  const Tensor y = matrix(memory), x = matrix(memory), w = matrix(memory);
  const std::size_t rest = memory.capacity() - memory.used();
  Arena scratch(memory.bytes(rest), rest, "scratch");
  Context ctx;
  ctx.scratch = &scratch;
  return kTries * meter.total.flops / seconds_of(kTries, [&] { linear(ctx, y, x, w); });
}

double measure_peak_bytes() {
  constexpr std::int64_t n = std::int64_t{1} << 24;  // 64 MiB each: beyond the caches
  constexpr int kTries = 4;
  Arena memory(Backing::host, 2 * n * sizeof(float));
  const Tensor y = memory.tensor({n}, DType::f32), x = memory.tensor({n}, DType::f32);
  Context ctx;
  return kTries * 2.0 * static_cast<double>(x.bytes()) / seconds_of(kTries, [&] { copy(ctx, y, x); });
}

}  // namespace offramp
