#include "trainer/agreed.h"

#include <vector>

#include "comm/host.h"
#include "models/names.h"
#include "tensor/random.h"

namespace offramp {
namespace {

// The bytes that ranks on this rank's host want in all.
double wanted_on_host(Context& ctx, const Group& world, std::size_t mine) {
  constexpr std::uint64_t kExact = std::uint64_t{1} << 52;  // of a host's name, as much as a double holds
  const auto size = static_cast<std::size_t>(world.size()), rank = static_cast<std::size_t>(world.rank());
  std::vector<double> all(2 * size, 0.0);  // bytes of each rank | its host
  all[rank] = static_cast<double>(mine);
  all[size + rank] = static_cast<double>(hash(host_name()) % kExact);
  all_reduce(ctx, Tensor(all.data(), {static_cast<std::int64_t>(all.size())}, DType::f64), world).wait(ctx);
  double bytes = 0;
  for (std::size_t r = 0; r < size; ++r)
    if (all[size + r] == all[size + rank]) bytes += all[r];
  return bytes;
}

}  // namespace

void check_host_memory(const Group& world, Activity& activity, std::size_t bytes) {
  Context ctx;
  ctx.activity = &activity;
  const double here = wanted_on_host(ctx, world, bytes);
  agreed(world, activity, "checking the host's memory", [&] {
    if (here <= static_cast<double>(host_memory())) return;
    fail(Exit::memory,
         "this rank needs {:.2f} GB, all ranks on its host need {:.2f} GB, and the host has {:.2f} GB: reduce the model, micro_batch_size "
         "or "
         "sequence_length, use more pipeline stages, or fewer ranks a host",
         static_cast<double>(bytes) / 1e9, here / 1e9, static_cast<double>(host_memory()) / 1e9);
  });
}

}  // namespace offramp
