// What one rank's save costs:  bench_saves DIRECTORY [HIDDEN_SIZE]
// A Llama of 8 layers with two exits, saved over and over into DIRECTORY, in turns with as many bytes written plainly: one file there,
// 4 MiB a write, one sync. `copy` is what training stands still for. `save` is from there until the checkpoint bears its name: copies,
// checksums, writes, syncs, index, manifest. `processor` is what of one it takes meanwhile. `verified` is what reading it back for --resume
// takes. Memory is what the process grew by during the saves, beside the state that they save.
#include <fcntl.h>
#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "checkpoint/saver.h"
#include "comm/in_process.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr int kRounds = 7;
constexpr double kMiB = 1 << 20;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Of all threads of this process.
double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double time_of(F&& body) {
  const double start = seconds();
  body();
  return seconds() - start;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

std::size_t most_resident() {  // bytes
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return static_cast<std::size_t>(std::atoll(line.c_str() + 6)) * 1024;
  return 0;
}

MachineOptions options(std::int64_t hidden) {
  const std::int64_t heads = std::max<std::int64_t>(1, hidden / 64);
  return {.model = {.num_hidden_layers = 8,
                    .hidden_size = hidden,
                    .intermediate_size = hidden * 43 / 16,
                    .num_attention_heads = heads,
                    .num_key_value_heads = heads,
                    .vocab_size = 8192,
                    .max_position_embeddings = 512},
          .exits = {{.layer = 2, .loss_weight = 0.25}, {.layer = 4, .loss_weight = 0.5}},
          .sequence_length = 32,
          .optimizer_state = {"exp_avg", "exp_avg_sq"},
          .snapshot = true};
}

void write_plainly(const std::string& path, const Tensor& state) {
  constexpr std::size_t kWrite = std::size_t{4} << 20;
  const int file = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  const char* next = reinterpret_cast<const char*>(state.as<float>());
  for (std::size_t left = state.bytes(); left > 0;) {
    const ssize_t put = ::write(file, next, std::min(left, kWrite));
    OFFRAMP_CHECK(put > 0, "{}: cannot be written", path);
    next += put, left -= static_cast<std::size_t>(put);
  }
  OFFRAMP_CHECK(::fsync(file) == 0 && ::close(file) == 0, "{}: cannot be synced", path);
}

// Until it has its name; as a trainer's steps hear of it.
void save(Saver& saver, Machine& machine, std::int64_t step) {
  saver.begin({.run_id = "bench", .step = step}, saved_boxes(machine));
  while (saver.busy()) {
    const auto failure = saver.advance(saver.progress());
    OFFRAMP_CHECK(!failure, "{}", *failure);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void measure(const std::string& directory, std::int64_t hidden, const Group& world) {
  const MachineOptions machine_options = options(hidden);
  const MemoryPlan plan = plan_memory(machine_options, Mesh::planned(0, {}));
  Machine machine(machine_options, Mesh(world, {}), Backing::host, plan.peak);
  machine.flat().initialize(machine.context(), 1);
  take_snapshot(machine, machine.snapshot());
  Saver saver({.directory = directory, .run_id = "bench", .keep = 1}, machine.snapshot());
  const std::size_t before = most_resident();
  std::vector<double> copies, saves, plain, verified, processor;
  for (int round = 0; round < kRounds; ++round) {
    const auto plainly = [&] { plain.push_back(time_of([&] { write_plainly(directory + "/plain", machine.snapshot()); })); };
    if (round % 2 == 0) plainly();
    copies.push_back(time_of([&] { take_snapshot(machine, machine.snapshot()); }));
    const double used = processor_seconds();
    saves.push_back(time_of([&] { save(saver, machine, round + 1); }));
    processor.push_back(processor_seconds() - used);
    verified.push_back(time_of([&] { Checkpoint(step_directory(directory, round + 1)).verify(); }));
    if (round % 2 == 1) plainly();
  }
  const double bytes = static_cast<double>(machine.snapshot().bytes());
  fmt::print("state {:.0f} MiB, copy {:.0f} MiB, grown by {:.1f} MiB during saves\n", bytes / kMiB, bytes / kMiB,
             static_cast<double>(most_resident() - before) / kMiB);
  const auto print = [&](const char* what, const std::vector<double>& times) {
    fmt::print("{:<10} {:7.3f} s  {:7.0f} MiB/s  [{:.3f} .. {:.3f} s]\n", what, median(times), bytes / kMiB / median(times),
               *std::min_element(times.begin(), times.end()), *std::max_element(times.begin(), times.end()));
  };
  print("copy", copies);
  print("save", saves);
  print("processor", processor);
  print("plain", plain);
  print("verified", verified);
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round)
    ratios.push_back(plain[static_cast<std::size_t>(round)] / saves[static_cast<std::size_t>(round)]);
  fmt::print("a save's speed is {:.2f} of plain writes' (median of {} rounds)\n", median(ratios), kRounds);
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  if (argc < 2) return fmt::print(stderr, "bench_saves DIRECTORY [HIDDEN_SIZE]\n"), 2;
  const std::string directory = std::string(argv[1]) + "/bench_saves";
  std::filesystem::create_directories(directory);
  offramp::run_in_process(1,
                          [&](const offramp::Group& world) { offramp::measure(directory, argc > 2 ? std::atoll(argv[2]) : 512, world); });
  std::filesystem::remove_all(directory);
}
