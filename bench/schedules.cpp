// What exits cost in a pipeline, simulated: EE-LLM's figure and its like, in units of a layer's forward (input gradient and weight
// gradient take as long each); first with messages that take no time, then with those of H100s. docs/schedules.md shows what it prints.
//
//   bench/schedules            # build/bench/bench_schedules
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "parallel/cost.h"
#include "parallel/generators.h"

using namespace offramp;

namespace {

// How long messages take, as parts of a layer's forward: microbatches of one sequence of 2,048 tokens in bf16, on H100s that are each
// on a node of their own.
class Messages {
 public:
  Messages(ModelConfig model, int ranks) : setting_{.degrees = {.pipeline = ranks}} {
    MachineOptions options;
    options.model = std::move(model);
    options.sequence_length = options.model.max_position_embeddings;
    options.precision = DType::bf16;
    work_ = measure_work(options, {});
    cluster_.ranks_per_node = 1;
    setting_.head_size = static_cast<double>(options.model.head_size());
    layer_ = seconds(work_.attention.forward) + seconds(work_.mlp.forward);
  }
  double one() const { return seconds({{work_.message}}) / layer_; }  // a microbatch's activations
  double time(const Action& action, const Layout& layout) const { return seconds(work_of(action, {&work_, 1}, {}, layout)) / layer_; }

 private:
  double seconds(const Counted& work) const { return seconds_of(work.calls, setting_, cluster_); }
  Setting setting_;
  Cluster cluster_;
  ModelWork work_;
  double layer_ = 1;
};

// A Llama's layer: of 1.3 billion parameters, of 7 billion.
ModelConfig layer_of(std::int64_t hidden, std::int64_t intermediate) {
  ModelConfig model;
  model.num_hidden_layers = 1, model.hidden_size = hidden, model.intermediate_size = intermediate;
  model.num_attention_heads = model.num_key_value_heads = hidden / 128;
  model.vocab_size = 32000, model.max_position_embeddings = 2048;
  return model;
}
ModelConfig small_layer() { return layer_of(2048, 5504); }
ModelConfig large_layer() { return layer_of(4096, 11008); }

struct Pipeline {
  int ranks = 4, microbatches = 32, layers = 6;  // layers of a stage
  double head = 3;                               // forward of a head
  ModelConfig model = small_layer();             // whose messages
  std::shared_ptr<const Messages> messages;      // none: they take no time
};

struct Row {
  std::string what;
  std::string schedule = "auto";
  std::vector<int> layers;  // of each stage
  std::vector<int> exits;   // stages of early exits
  std::string in_flight = "1f1b";
  bool split_heads = false;
};

Layout layout_of(const Pipeline& pipeline, const Row& row) {
  Layout layout;
  layout.ranks = layout.stages = pipeline.ranks;
  layout.microbatches = pipeline.microbatches;
  layout.split_backward = splits_backward(row.schedule);
  layout.split_heads = row.split_heads;
  for (int stage : row.exits) layout.exits.push_back({stage, stage, true, true});
  layout.exits.push_back({pipeline.ranks - 1, 1000, false, true});
  return layout;
}

Times times_of(const Pipeline& pipeline, const Row& row) {
  const bool split = splits_backward(row.schedule);
  const Layout layout = layout_of(pipeline, row);
  return [=](const Action& action) {
    const double layers = row.layers[static_cast<std::size_t>(action.stage)];
    switch (action.op) {
      case Op::Forward:
      case Op::WeightGrad:
        return layers;
      case Op::Backward:
        return split ? layers : 2 * layers;
      case Op::Exit:
        return 3 * pipeline.head;
      case Op::Scores:
      case Op::HeadBackward:
      case Op::HeadWeightGrad:
        return pipeline.head / pipeline.ranks;
      default:
        return pipeline.messages && is_message(action.op) ? pipeline.messages->time(action, layout) : 0.0;
    }
  };
}

double print(const Pipeline& pipeline, const Row& row, double base) {
  const Layout layout = layout_of(pipeline, row);
  const Times times = times_of(pipeline, row);
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
std::vector<int> best_partition(const Pipeline& pipeline) {
  const int all = pipeline.ranks * pipeline.layers, others = pipeline.ranks - 1;
  std::vector<int> best;
  double least = 1e300;
  for (int last = 1; last <= pipeline.layers; ++last) {
    std::vector<int> layers;
    for (int s = 0; s < others; ++s) layers.push_back((all - last) / others + (s < (all - last) % others ? 1 : 0));
    layers.push_back(last);
    const double slowest = std::max<double>(layers.front(), last + pipeline.head);
    if (slowest < least) least = slowest, best = layers;
  }
  return best;
}

void print_pipeline(const Pipeline& pipeline) {
  const std::vector<int> even(static_cast<std::size_t>(pipeline.ranks), pipeline.layers), best = best_partition(pipeline);
  const std::vector<int> first{0, 0}, middle{pipeline.ranks / 4, pipeline.ranks / 2};
  const std::string twice = std::to_string(2 * pipeline.ranks);
  fmt::print("\n{} ranks, {} microbatches, {} layers a stage, a head costs {} layers", pipeline.ranks, pipeline.microbatches,
             pipeline.layers, pipeline.head);
  fmt::print("{}\n\n", pipeline.messages ? fmt::format(", a message takes {:.2f}", pipeline.messages->one()) : "");
  fmt::print("| {:<44} | {:>7} | {:>8} | {:>8} | {:>7} | {:>6} |\n", "", "flight", "step", "bound", "above", "ratio");
  fmt::print("|{:-<46}|{:->9}|{:->10}|{:->10}|{:->9}|{:->8}|\n", "", ":", ":", ":", ":", ":");
  print(pipeline, {.what = "no exits, 1F1B, equal stages", .schedule = "1f1b", .layers = even}, 0);
  print(pipeline, {.what = "no exits, 1F1B, best partition", .schedule = "1f1b", .layers = best}, 0);
  print(pipeline, {.what = "no exits, auto, best partition", .layers = best}, 0);
  print(pipeline, {.what = "no exits, auto, best partition", .layers = best, .in_flight = twice}, 0);
  const double base =
      print(pipeline, {.what = "no exits, auto, final head split", .layers = even, .in_flight = "1f1b+1", .split_heads = true}, 0);
  print(pipeline, {.what = "two exits on stage 0, 1F1B (EE-LLM)", .schedule = "1f1b", .layers = even, .exits = first}, base);
  print(pipeline, {.what = "two exits on stage 0, auto, whole heads", .layers = even, .exits = first}, base);
  print(pipeline, {.what = "two exits on stage 0, auto, whole heads", .layers = even, .exits = first, .in_flight = twice}, base);
  print(pipeline,
        {.what = "two exits on stage 0, auto, heads split", .layers = even, .exits = first, .in_flight = "1f1b+1", .split_heads = true},
        base);
  print(pipeline, {.what = "two exits on middle stages, 1F1B (EE-LLM)", .schedule = "1f1b", .layers = even, .exits = middle}, base);
  print(pipeline, {.what = "two exits on middle stages, auto, whole heads", .layers = even, .exits = middle}, base);
  print(pipeline, {.what = "two exits on middle stages, auto, whole heads", .layers = even, .exits = middle, .in_flight = twice}, base);
  print(pipeline,
        {.what = "two exits on middle stages, auto, heads split",
         .layers = even,
         .exits = middle,
         .in_flight = "1f1b+1",
         .split_heads = true},
        base);
}

}  // namespace

int main() {
  const std::vector<Pipeline> pipelines = {{},
                                           {.ranks = 8, .microbatches = 64},
                                           {.layers = 8, .head = 0.65, .model = large_layer()},  // 7B, vocabulary 32,000
                                           {.head = 2.05}};                                      // 1.3B, vocabulary 50,304
  for (const Pipeline& pipeline : pipelines) print_pipeline(pipeline);
  fmt::print("\nWith the messages of H100s\n");
  for (Pipeline pipeline : pipelines) {
    pipeline.messages = std::make_shared<Messages>(pipeline.model, pipeline.ranks);
    print_pipeline(pipeline);
  }
}
