// What this rank's share of the processor can do, for the logged utilisation: the mean speed of a few products that fit its
// caches, while all ranks measure (the best one would be that of a core which other ranks had left alone for a moment).
#include <chrono>

#include "trainer/job.h"

namespace offramp {

double measure_peak_flops() {
  constexpr std::int64_t n = 768;
  constexpr int kTries = 16;
  Meter meter;
  Arena nowhere(Backing::none, kUnlimited), planned(Backing::none, kUnlimited);
  Context planning;
  planning.scratch = &planned;
  planning.meter = &meter;
  const auto matrix = [](Arena& arena) { return arena.tensor({n, n}, DType::f32); };
  linear(planning, matrix(nowhere), matrix(nowhere), matrix(nowhere));

  Arena memory(Backing::host, 3 * aligned(n * n * sizeof(float)) + aligned(planned.peak()));
  const Tensor y = matrix(memory), x = matrix(memory), w = matrix(memory);
  const std::size_t rest = memory.capacity() - memory.used();
  Arena scratch(memory.bytes(rest), rest, "scratch");
  Context ctx;
  ctx.scratch = &scratch;
  linear(ctx, y, x, w);  // the first one also compiles the kernel
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kTries; ++i) linear(ctx, y, x, w);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return kTries * meter.total.flops / seconds;
}

}  // namespace offramp
