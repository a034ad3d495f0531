#include "trainer/sound_checkpoint.h"

#include <fmt/format.h>

#include "checkpoint/checkpoint.h"
#include "comm/host.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// The steps that rank 0 sees: a network's directory may look different elsewhere.
std::vector<std::int64_t> agreed_steps(Context& ctx, const Group& world, const std::string& directory) {
  std::vector<std::int64_t> steps;
  if (world.rank() == 0) steps = steps_in(directory);
  auto count = static_cast<std::int32_t>(steps.size());
  broadcast(ctx, Tensor(&count, {1}, DType::i32), world, 0).wait(ctx);
  std::vector<double> numbers(steps.begin(), steps.end());
  numbers.resize(static_cast<std::size_t>(count));
  if (count > 0) broadcast(ctx, Tensor(numbers.data(), {count}, DType::f64), world, 0).wait(ctx);
  return {numbers.begin(), numbers.end()};
}

// What is wrong with this rank's part of the files.
std::optional<Error> verify_part(const Group& world, Activity& activity, const std::string& directory) {
  const auto rank = static_cast<std::size_t>(world.rank()), ranks = static_cast<std::size_t>(world.size());
  activity.begin("verifying " + directory);
  try {
    Checkpoint(directory).verify(rank, ranks, [&] { activity.beat(); });
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

bool sound(Context& ctx, const Group& world, Activity& activity, const std::string& directory) {
  const auto error = verify_part(world, activity, directory);
  if (error) fmt::print(stderr, "{}\n", error_line(world.rank(), Exit::checkpoint, error->what()));
  double failed = error ? 1 : 0;
  all_reduce(ctx, Tensor(&failed, {1}, DType::f64), world).wait(ctx);
  return failed == 0;
}

}  // namespace

std::optional<std::string> newest_sound(Context& ctx, const Group& world, Activity& activity, const std::string& directory,
                                        std::vector<std::string>& notes) {
  if (is_step_directory(directory)) {
    agree(ctx, world, verify_part(world, activity, directory));
    return directory;
  }
  const std::vector<std::int64_t> steps = agreed_steps(ctx, world, directory);
  for (const std::int64_t step : steps) {
    const std::string path = step_directory(directory, step);
    if (sound(ctx, world, activity, path)) return path;
    notes.push_back(fmt::format("{}: is damaged; an older one is used", path));
  }
  if (steps.empty()) return std::nullopt;
  throw AgreedError(Exit::checkpoint,
                    error_line(world.rank(), Exit::checkpoint,
                               fmt::format("{}: of {} checkpoints none is sound; the job does not start from nothing by itself", directory,
                                           steps.size())));
}

}  // namespace offramp
