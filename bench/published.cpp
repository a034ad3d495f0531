// What `offramp plan` says of jobs whose step times and activations others published, beside what they measured.
// docs/planning.md shows what it prints.
//
//   build/bench/bench_published           # Megatron-LM's by configs/clusters/a100-unfused.yaml, EE-LLM's by a100.yaml
//   build/bench/bench_published --fit     # the product.efficiency that fits the fitted rows best: least sum of squared errors; minutes
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tests/trainer/published.h"
#include "trainer/cluster_file.h"
#include "trainer/plan_command.h"
#include "trainer/yaml.h"

using namespace offramp;
using namespace offramp::testing;

namespace {

constexpr const char* kCells = "| {:<25} | {:>9} | {:>9} | {:>7} | {:>9} | {:>9} | {:>7} | {:<6} |\n";

struct Errors {
  double sum = 0, largest = 0;
  int count = 0;
  std::string add(double predicted, double published) {
    const double error = error_of(predicted, published);
    sum += std::abs(error), largest = std::max(largest, std::abs(error)), ++count;
    return fmt::format("{:+.1f} %", 100 * error);
  }
  std::string text() const { return fmt::format("mean {:.1f} %, largest {:.1f} %", 100 * sum / count, 100 * largest); }
};

std::string number(double value) { return value > 0 ? fmt::format("{:.2f}", value) : ""; }

void print_table(const Cluster& cluster) {
  Errors fitted, others, memory;
  fmt::print(kCells, "", "published", "planned", "error", "published", "planned", "error", "");
  fmt::print("|{:-<27}|{:->11}|{:->11}|{:->9}|{:->11}|{:->11}|{:->9}|{:-<8}|\n", "", ":", ":", ":", ":", ":", ":", "");
  for (const PublishedRow& row : published_rows()) {
    const Predicted plan = predict(row, cluster);
    const bool timed = row.seconds > 0, weighed = row.gib > 0;
    fmt::print(kCells, fmt::format("{}, recompute {}", row.model.name, row.recompute), number(row.seconds),
               timed ? number(plan.seconds) : "", timed ? (row.fitted ? fitted : others).add(plan.seconds, row.seconds) : "",
               number(row.gib), weighed ? number(plan.gib) : "", weighed ? memory.add(plan.gib, row.gib) : "", row.fitted ? "fitted" : "");
  }
  fmt::print("\ntime, fitted rows: {}\ntime, other rows: {}\nmemory: {}\n", fitted.text(), others.text(), memory.text());
}

// Of each of EE-LLM's jobs, 2,048 samples of 2,048 tokens a step.
void print_ee_llm(const Cluster& cluster) {
  constexpr const char* kRow = "| {:<5} | {:>5} | {:>12} | {:>7} | {:>11} |\n";
  fmt::print("\n");
  fmt::print(kRow, "", "ranks", "largest peak", "step", "of the peak");
  fmt::print("|{:-<7}|{:->7}|{:->14}|{:->9}|{:->13}|\n", "", ":", ":", ":", ":");
  for (const auto& [size, ranks] : {std::pair{"1.3b", 16}, {"7b", 16}, {"13b", 32}, {"30b", 64}}) {
    const PlannedJob job = planned_job(read_config(fmt::format("configs/ee-llm-{}.yaml", size), {}), ranks);
    const StepPlan plan = plan_step(job, cluster);
    const auto largest = std::ranges::max_element(plan.ranks, {}, [](const RankPlan& rank) { return rank.memory.peak; });
    fmt::print(kRow, size, ranks, fmt::format("{:.1f} GB", static_cast<double>(largest->memory.peak) / 1e9),
               fmt::format("{:.1f} s", plan.step_s),
               fmt::format("{:.1f} %", 100 * plan.model_flops / (cluster.bf16_flops * ranks * plan.step_s)));
  }
}

double squared_errors(Cluster cluster, double efficiency) {
  cluster.efficiency = efficiency;
  double sum = 0;
  for (const PublishedRow& row : published_rows())
    if (row.fitted) sum += std::pow(error_of(plan_time(job_of(row), cluster).step_s, row.seconds), 2);
  return sum;
}

// All times fall as it grows, so the sum has one minimum.
double fitted_efficiency(const Cluster& cluster) {
  double low = 0.5, high = 1;
  while (high - low > 1e-3) {
    const double third = (high - low) / 3;
    if (squared_errors(cluster, low + third) < squared_errors(cluster, high - third))
      high -= third;
    else
      low += third;
  }
  return (low + high) / 2;
}

}  // namespace

int main(int argc, char** argv) {
  const Cluster cluster = read_cluster("configs/clusters/a100-unfused.yaml");
  if (argc > 1 && std::string(argv[1]) == "--fit") {
    fmt::print("product.efficiency {:.3f}\n", fitted_efficiency(cluster));
    return 0;
  }
  print_table(cluster);
  print_ee_llm(read_cluster("configs/clusters/a100.yaml"));
}
