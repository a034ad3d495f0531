#include "trainer/profile.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "checkpoint/file.h"

namespace offramp {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Every rank's text on rank 0, in rank order.
std::vector<std::string> gather_texts(Context& ctx, const Group& world, const std::string& mine) {
  std::vector<double> sizes(static_cast<std::size_t>(world.size()), 0.0);
  sizes[static_cast<std::size_t>(world.rank())] = static_cast<double>(mine.size());
  all_reduce(ctx, Tensor(sizes.data(), {world.size()}, DType::f64), world).wait(ctx);
  std::vector<std::string> texts;
  for (int rank = 0; rank < world.size(); ++rank) {
    const auto size = static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank)]);
    std::vector<std::int32_t> words((size + 3) / 4 + 1);  // messages are tensors; none is empty
    const Tensor message(words.data(), {static_cast<std::int64_t>(words.size())}, DType::i32);
    if (rank == world.rank()) std::memcpy(words.data(), mine.data(), size);
    if (rank == world.rank() && rank != 0) send(ctx, message, world, 0, kGatherTag).wait(ctx);
    if (world.rank() != 0) continue;
    if (rank != 0) receive(ctx, message, world, rank, kGatherTag).wait(ctx);
    texts.emplace_back(reinterpret_cast<const char*>(words.data()), size);
  }
  return texts;
}

}  // namespace

std::string profile_table(const Profile& profile, double seconds, const Peaks& peaks) {
  std::vector<std::pair<std::string, Profile::Entry>> rows(profile.operations.begin(), profile.operations.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  std::string text =
      fmt::format("floor: the larger of FLOPs at {:.0f} GFLOP/s (a product that fits the caches) and bytes at {:.1f} GB/s (memory)\n\n",
                  peaks.flops / 1e9, peaks.bytes / 1e9);
  text += fmt::format("{:<24} {:>7} {:>9} {:>6} {:>9} {:>8} {:>9} {:>12}\n", "operation", "calls", "ms", "share", "GFLOP/s", "GB/s",
                      "floor ms", "time / floor");
  Profile::Entry total;
  for (const auto& [name, e] : rows) {
    const double floor = std::max(e.cost.flops / peaks.flops, e.cost.bytes / peaks.bytes);
    text += fmt::format("{:<24} {:>7} {:>9.2f} {:>5.1f}% {:>9.1f} {:>8.1f} {:>9.2f} {:>12.2f}\n", name, e.calls, 1e3 * e.seconds,
                        100 * e.seconds / seconds, e.cost.flops / e.seconds / 1e9, e.cost.bytes / e.seconds / 1e9, 1e3 * floor,
                        floor > 0 ? e.seconds / floor : 0.0);
    total.seconds += e.seconds;
  }
  return text + fmt::format("{:<24} {:>7} {:>9.2f} {:>5.1f}%\n", "everything else", "", 1e3 * (seconds - total.seconds),
                            100 * (1 - total.seconds / seconds));
}

void Profiler::begin(std::int64_t step) {
  if (!covers(step)) return;
  machine_.trace(&trace_);
  machine_.context().profile = &profile_;
  began_ = now();
}

void Profiler::end(std::int64_t step) {
  if (!covers(step)) return;
  seconds_ += now() - began_;
  machine_.trace(nullptr);
  machine_.context().profile = nullptr;
  if (step == options_.steps[1]) write();
}

void Profiler::write() {
  const Group& world = machine_.mesh().world;
  const auto texts = gather_texts(machine_.context(), world, trace_events(trace_, world.rank()));
  if (world.rank() != 0) return;
  std::string events;
  for (const std::string& text : texts) events += text;
  write_file(options_.directory + "/trace.json", chrome_trace(events));
  const std::string share =
      fmt::format("gradient bytes on their way before the last backward ended: {:.0f}%\n", 100 * share_in_flight(trace_));
  write_file(options_.directory + "/profile.txt",
             profile_table(profile_, seconds_, options_.peaks) + (world.size() > 1 ? "\n" + share : ""));
}

}  // namespace offramp
