// The dry run: what every rank of a layout would take, from the same lines that would take it.
#include <omp.h>

#include <cstdio>

#include "parallel/partition.h"
#include "parallel/settle.h"
#include "trainer/trainer.h"

namespace offramp {
namespace {

constexpr const char* kRow = "{:>5} {:>6}  {:>9}  {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}  {}\n";

std::string size_text(std::size_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b / 1e9);
  return b >= 1e6 ? fmt::format("{:.1f} MB", b / 1e6) : fmt::format("{:.1f} kB", b / 1e3);
}

// Data ranks are equal in memory: "0, 4, 8, ... 1020".
std::string ranks_text(int stage, int tensor, const Degrees& degrees) {
  std::string text;
  for (int d = 0; d < degrees.data; ++d) {
    const int rank = rank_of({.tensor = tensor, .pipeline = stage, .data = d}, degrees);
    if (d < 3 || d == degrees.data - 1) text += fmt::format("{}{}", d == 0 ? "" : ", ", rank);
    if (d == 3 && degrees.data > 4) text += ", ...";
  }
  return text;
}

void print_plan(const MachineOptions& options, const Degrees& degrees) {
  const Partition partition = partition_of(options.layers_per_stage);
  fmt::print("{} ranks: tensor {}{} x pipeline {} x data {}{}, {}, schedule {}, microbatches of {} x {} tokens, {} a rank and step\n\n",
             degrees.world(), degrees.tensor, options.sequence_parallel ? " (sequence parallel)" : "", degrees.pipeline, degrees.data,
             options.shard_state ? " (optimizer sharded)" : "", options.precision == DType::bf16 ? "bf16" : "fp32", options.schedule,
             options.micro_batch_size, options.sequence_length, options.microbatches);
  fmt::print(kRow, "stage", "tensor", "layers", "parameters", "gradients", "optimizer", "activations", "transients", "buffers", "peak",
             "+ messages", "ranks");
  for (int stage = 0; stage < degrees.pipeline; ++stage) {
    const std::string layers = layers_text(partition, stage, degrees.pipeline);
    for (int tensor = 0; tensor < degrees.tensor; ++tensor) {
      const MemoryPlan m = plan_memory(options, Mesh::planned(rank_of({.tensor = tensor, .pipeline = stage, .data = 0}, degrees), degrees));
      fmt::print(kRow, stage, tensor, layers, size_text(m.parameters), size_text(m.gradients), size_text(m.optimizer),
                 size_text(m.activations), size_text(m.transients), size_text(m.buffers), size_text(m.peak), size_text(m.messages),
                 ranks_text(stage, tensor, degrees));
    }
  }
}

}  // namespace

void dry_run(const Config& config, int ranks) {
  omp_set_num_threads(config.training.threads);
  if (config.caches_features()) {
    const Degrees degrees = degrees_of(config, ranks);
    fmt::print("Features, made once, beside what trains from them:\n");
    print_plan(feature_options(config, degrees), degrees);
    fmt::print("\nSteps from features:\n");
  }
  const Config trained = training_layout(config);
  const Degrees degrees = degrees_of(trained, ranks);
  print_plan(settled(machine_options(trained, degrees), degrees), degrees);
}

}  // namespace offramp
