// What exits cost in a pipeline, simulated: EE-LLM's figure and its like, in units of a layer's forward (input gradient and weight
// gradient take as long each; messages take no time). docs/schedules.md shows what it prints.
//
//   bench/schedules            # build/bench/bench_schedules
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "parallel/generators.h"

using namespace offramp;

namespace {

struct Setting {
  int ranks = 4, microbatches = 32, layers = 6;  // layers of a stage
  double head = 3;                               // forward of a head
};

struct Row {
  std::string what;
  std::string schedule = "auto";
  std::vector<int> layers;  // of each stage
  std::vector<int> exits;   // stages of early exits
  std::string in_flight = "1f1b";
  bool split_heads = false;
};

Layout layout_of(const Setting& setting, const Row& row) {
  Layout layout;
  layout.ranks = layout.stages = setting.ranks;
  layout.microbatches = setting.microbatches;
  layout.split_backward = splits_backward(row.schedule);
  layout.split_heads = row.split_heads;
  for (int stage : row.exits) layout.exits.push_back({stage, stage, true, true});
  layout.exits.push_back({setting.ranks - 1, 1000, false, true});
  return layout;
}

Times times_of(const Setting& setting, const Row& row) {
  const bool split = splits_backward(row.schedule);
  return [=](const Action& action) {
    const double layers = row.layers[static_cast<std::size_t>(action.stage)];
    switch (action.op) {
      case Op::Forward:
      case Op::WeightGrad:
        return layers;
      case Op::Backward:
        return split ? layers : 2 * layers;
      case Op::Exit:
        return 3 * setting.head;
      case Op::Scores:
      case Op::HeadBackward:
      case Op::HeadWeightGrad:
        return setting.head / setting.ranks;
      default:
        return 0.0;
    }
  };
}

double print(const Setting& setting, const Row& row, double base) {
  const Layout layout = layout_of(setting, row);
  const Times times = times_of(setting, row);
  const ScheduleOptions options{
      .name = row.schedule, .placement = Placement::automatic, .times = times, .limits = parse_in_flight(row.in_flight, layout)};
  const double seconds = simulate(build_schedule(options, layout), layout, times).seconds,
               bound = lower_bound(ActionGraph(layout, times, options.limits));
  const std::string ratio = base > 0 ? fmt::format("{:.3f}", seconds / base) : "";
  fmt::print("| {:<44} | {:>7} | {:>8.1f} | {:>8.1f} | {:>5.2f} % | {:>6} |\n", row.what, row.schedule == "auto" ? row.in_flight : "1f1b",
             seconds, bound, std::max(0.0, 100 * (seconds / bound - 1)), ratio);
  return seconds;
}

// Layers split so that the slowest stage, the last one with its head, is as fast as can be.
std::vector<int> best_partition(const Setting& setting) {
  const int all = setting.ranks * setting.layers, others = setting.ranks - 1;
  std::vector<int> best;
  double least = 1e300;
  for (int last = 1; last <= setting.layers; ++last) {
    std::vector<int> layers;
    for (int s = 0; s < others; ++s) layers.push_back((all - last) / others + (s < (all - last) % others ? 1 : 0));
    layers.push_back(last);
    const double slowest = std::max<double>(layers.front(), last + setting.head);
    if (slowest < least) least = slowest, best = layers;
  }
  return best;
}

void print_setting(const Setting& setting) {
  const std::vector<int> even(static_cast<std::size_t>(setting.ranks), setting.layers), best = best_partition(setting);
  const std::vector<int> first{0, 0}, middle{setting.ranks / 4, setting.ranks / 2};
  const std::string twice = std::to_string(2 * setting.ranks);
  fmt::print("\n{} ranks, {} microbatches, {} layers a stage, a head costs {} layers\n\n", setting.ranks, setting.microbatches,
             setting.layers, setting.head);
  fmt::print("| {:<44} | {:>7} | {:>8} | {:>8} | {:>7} | {:>6} |\n", "", "flight", "step", "bound", "above", "ratio");
  fmt::print("|{:-<46}|{:->9}|{:->10}|{:->10}|{:->9}|{:->8}|\n", "", ":", ":", ":", ":", ":");
  print(setting, {.what = "no exits, 1F1B, equal stages", .schedule = "1f1b", .layers = even}, 0);
  print(setting, {.what = "no exits, 1F1B, best partition", .schedule = "1f1b", .layers = best}, 0);
  print(setting, {.what = "no exits, auto, best partition", .layers = best}, 0);
  print(setting, {.what = "no exits, auto, best partition", .layers = best, .in_flight = twice}, 0);
  const double base =
      print(setting, {.what = "no exits, auto, final head split", .layers = even, .in_flight = "1f1b+1", .split_heads = true}, 0);
  print(setting, {.what = "two exits on stage 0, 1F1B (EE-LLM)", .schedule = "1f1b", .layers = even, .exits = first}, base);
  print(setting, {.what = "two exits on stage 0, auto, whole heads", .layers = even, .exits = first}, base);
  print(setting, {.what = "two exits on stage 0, auto, whole heads", .layers = even, .exits = first, .in_flight = twice}, base);
  print(setting,
        {.what = "two exits on stage 0, auto, heads split", .layers = even, .exits = first, .in_flight = "1f1b+1", .split_heads = true},
        base);
  print(setting, {.what = "two exits on middle stages, 1F1B (EE-LLM)", .schedule = "1f1b", .layers = even, .exits = middle}, base);
  print(setting, {.what = "two exits on middle stages, auto, whole heads", .layers = even, .exits = middle}, base);
  print(setting, {.what = "two exits on middle stages, auto, whole heads", .layers = even, .exits = middle, .in_flight = twice}, base);
  print(setting,
        {.what = "two exits on middle stages, auto, heads split",
         .layers = even,
         .exits = middle,
         .in_flight = "1f1b+1",
         .split_heads = true},
        base);
}

}  // namespace

int main() {
  print_setting({});
  print_setting({.ranks = 8, .microbatches = 64});
  print_setting({.layers = 8, .head = 0.65});  // 7B, vocabulary 32,000
  print_setting({.head = 2.05});               // 1.3B, vocabulary 50,304
}
