// What schedules take in given times, simulated and measured: a step of the real machine over MPI whose computation is replaced by waits
// (tests/parallel/waited_step.h), so a core or two are enough for all ranks. EE-LLM's figure: six layers a stage, a head costs three; a
// stage's forward takes 20 ms. docs/schedules.md shows what it prints.
//
//   mpirun -np 4 build/bench/bench_waits
#include "comm/mpi.h"
#include "tests/parallel/small_job.h"
#include "tests/parallel/waited_step.h"

using namespace offramp;

namespace {

constexpr int kLayers = 6;  // of a stage
constexpr int kSteps = 3;
constexpr offramp::testing::Lengths kLengths{.layer = 0.020 / kLayers, .head = 0.010};

struct Row {
  std::string exits, schedule, placement, in_flight = "1f1b";
};

std::vector<ExitSpec> exits_at(const std::string& where, int ranks) {
  if (where == "none") return {};
  if (where == "first stage") return {{.layer = kLayers / 2}, {.layer = kLayers}};
  return {{.layer = (ranks / 4 + 1) * kLayers}, {.layer = (ranks / 2 + 1) * kLayers}};
}

MachineOptions options_of(const Row& row, int ranks) {
  MachineOptions options = offramp::testing::small_job(exits_at(row.exits, ranks), false).options;
  options.model.num_hidden_layers = kLayers * ranks;
  options.microbatches = 8 * ranks;
  options.schedule = row.schedule;
  options.exit_placement = row.placement;
  options.in_flight = row.in_flight;
  return options;
}

void measure(const Row& row, const Group& world) {
  offramp::testing::WaitedStep step(options_of(row, world.size()), kLengths, world);
  double least = 1e300;
  for (int i = 0; i < kSteps; ++i) least = std::min(least, step.run());
  const double simulated = step.simulated();
  if (world.rank() == 0)
    fmt::print("| {:<13} | {:<11} | {:<15} | {:>6} | {:>7.3f} | {:>7.3f} | {:>6.3f} |\n", row.exits, row.schedule, row.placement,
               row.schedule == "auto" ? row.in_flight : "", simulated, least, least / simulated);
}

std::vector<Row> rows(int ranks) {
  std::vector<Row> all = {{"none", "gpipe", "auto"}, {"none", "1f1b", "auto"}, {"none", "zero_bubble", "auto"}};
  for (const char* exits : {"first stage", "middle stages"}) {
    for (const char* schedule : {"gpipe", "1f1b", "zero_bubble"})
      for (const char* placement : {"after_forward", "before_backward"}) all.push_back({exits, schedule, placement});
    for (const std::string& in_flight : {std::string("1f1b"), std::to_string(2 * ranks)}) all.push_back({exits, "auto", "auto", in_flight});
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  MpiSession mpi(argc, argv);
  const Group world = mpi.world();
  if (world.rank() == 0) {
    fmt::print("{} ranks, {} microbatches; seconds; the least of {} steps\n\n", world.size(), 8 * world.size(), kSteps);
    fmt::print("| exits         | schedule    | placement       | flight | simulated | measured | ratio |\n");
    fmt::print("|---------------|-------------|-----------------|-------:|--------:|--------:|-------:|\n");
  }
  for (const Row& row : rows(world.size())) measure(row, world);
  return 0;
}
