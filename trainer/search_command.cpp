#include "trainer/search_command.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "checkpoint/file.h"
#include "search/evolution.h"
#include "search/pareto.h"
#include "search/predictor.h"
#include "search/sample.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/measure_subnets.h"
#include "trainer/subnets.h"

namespace offramp {
namespace {

constexpr int kLimits = 8;         // under which subnets evolve, so that the front is known along its length
constexpr std::size_t kFound = 2;  // proposed at each

// Without the depths whose exit no model of its own can end with.
Space exportable(Space space, const std::vector<ExitSpec>& exits) {
  std::erase_if(space.num_hidden_layers, [&](std::int64_t depth) {
    return std::ranges::any_of(exits, [&](const ExitSpec& exit) { return exit.layer == depth && exit.head == HeadKind::bare; });
  });
  return space;
}

std::vector<double> values_of(std::span<const MeasuredSubnet> subnets, const std::function<double(const MeasuredSubnet&)>& value) {
  std::vector<double> values;
  for (const MeasuredSubnet& measured : subnets) values.push_back(value(measured));
  return values;
}

PredictorQuality quality_of(const Predictor& predictor) { return {predictor.error(), predictor.rank_correlation()}; }

class Search {
 public:
  Search(const SearchArguments& arguments, const Measuring& by, SearchResult& result)
      : arguments_(arguments), by_(by), model_(by.model.config.model), result_(result) {}

  void run() {
    std::vector<Subnet> sample = sample_subnets(result_.space, model_, arguments_.measure, arguments_.seed);
    if (arguments_.by != CostKind::latency) {
      const Subnet cheapest = within_limit(narrowest()).subnet;  // is measured, so that something within the limit is
      if (std::ranges::count(sample, cheapest) == 0) sample.push_back(cheapest);
    }
    measure(sample);
    if (arguments_.by == CostKind::latency) within_limit(result_.subnets);
    if (static_cast<double>(result_.subnets.size()) < count_of(result_.space)) propose();
    choose();
  }

 private:
  MeasuredSubnet costed(const Subnet& subnet) const {
    const SubnetCost cost = cost_of(subnet, by_.model.config);
    return {.subnet = shortened(subnet, model_), .flops = cost.flops, .parameters = cost.parameters};
  }

  // Of each depth: the least of them is not always the cheapest, as exits may have more to run, or to hold, than the final head.
  std::vector<MeasuredSubnet> narrowest() const {
    std::vector<MeasuredSubnet> all;
    for (const std::int64_t depth : result_.space.num_hidden_layers) {
      Subnet subnet = smallest(result_.space);
      subnet.num_hidden_layers = depth;
      all.push_back(costed(subnet));
    }
    if (all.empty()) all.push_back(costed(smallest(result_.space)));
    return all;
  }

  // The cheapest of some, if it keeps to the limit; refused, if not.
  MeasuredSubnet within_limit(std::span<const MeasuredSubnet> subnets) const {
    const CostKind by = arguments_.by;
    const auto cheapest = std::ranges::min_element(subnets, {}, [&](const MeasuredSubnet& measured) { return measured.cost(by); });
    agreed(by_.world, by_.activity, "checking the limit", [&] {
      if (arguments_.limit && cheapest->cost(by) > *arguments_.limit)
        fail(Exit::configuration, "--max-{} {}: no subnet keeps to it; the smallest, {}, has {}", name_of(by),
             cost_text(by, *arguments_.limit), to_text(cheapest->subnet), cost_text(by, cheapest->cost(by)));
    });
    return *cheapest;
  }

  void measure(const std::vector<Subnet>& subnets, const Predictor* loss = nullptr) {
    const std::size_t before = result_.subnets.size();
    for (const Subnet& subnet : subnets) {
      result_.subnets.push_back(costed(subnet));
      if (loss) result_.subnets.back().predicted_loss = (*loss)(subnet);
    }
    const auto added = std::span(result_.subnets).subspan(before);
    if (added.empty()) return;
    measure_losses(added, by_);
    if (arguments_.by == CostKind::latency) measure_latencies(added, by_);
  }

  Predictor fitted(const std::function<double(const MeasuredSubnet&)>& value) const {
    std::vector<Subnet> subnets;
    for (const MeasuredSubnet& measured : result_.subnets) subnets.push_back(measured.subnet);
    return Predictor(result_.space, model_, subnets, values_of(result_.subnets, value));
  }

  void propose() {
    const Predictor loss = fitted([](const MeasuredSubnet& measured) { return measured.loss; });
    result_.loss = quality_of(loss);
    std::optional<Predictor> latency;
    if (arguments_.by == CostKind::latency) {
      latency = fitted([](const MeasuredSubnet& measured) { return std::log(*measured.latency_s); });
      result_.latency = quality_of(*latency);
    }
    const auto cost = [&](const Subnet& subnet) { return latency ? std::exp((*latency)(subnet)) : costed(subnet).cost(arguments_.by); };
    measure(evolved(loss, cost), &loss);
  }

  // Of subnets that were not measured those that the predictor likes best, under a row of limits that ends with the user's own.
  std::vector<Subnet> evolved(const Predictor& loss, const std::function<double(const Subnet&)>& cost) const {
    const std::vector<double> costs =
        values_of(result_.subnets, [&](const MeasuredSubnet& measured) { return measured.cost(arguments_.by); });
    const double least = std::ranges::min(costs), most = std::min(arguments_.limit.value_or(INFINITY), std::ranges::max(costs));
    std::vector<Subnet> found;
    for (int k = 1; k <= kLimits; ++k) {
      EvolutionOptions options{.space = result_.space, .model = model_, .loss = loss, .cost = cost};
      options.limit = k == kLimits ? most : least * std::pow(most / least, static_cast<double>(k) / kLimits);
      options.seed = arguments_.seed + static_cast<std::uint64_t>(k);
      for (const MeasuredSubnet& measured : result_.subnets) options.begin.push_back(measured.subnet);
      std::vector<Subnet> best = evolve(options, result_.subnets.size() + found.size() + kFound);
      std::erase_if(best, [&](const Subnet& subnet) {
        const auto is_it = [&](const MeasuredSubnet& measured) { return measured.subnet == subnet; };
        return std::ranges::count(found, subnet) > 0 || std::ranges::any_of(result_.subnets, is_it);
      });
      best.resize(std::min(best.size(), kFound));
      found.insert(found.end(), best.begin(), best.end());
    }
    return found;
  }

  void choose() {
    std::vector<CostAndLoss> points;
    for (const MeasuredSubnet& measured : result_.subnets) points.push_back({measured.cost(arguments_.by), measured.loss});
    result_.front = pareto_front(points);
    for (const std::size_t i : result_.front)  // the further, the better
      if (points[i].cost <= arguments_.limit.value_or(INFINITY)) result_.best = i;
  }

  const SearchArguments& arguments_;
  const Measuring& by_;
  const ModelConfig& model_;
  SearchResult& result_;
};

// Opened before anything is measured: what cannot be written is found out first.
struct SearchFiles {
  SearchFiles(const SearchArguments& arguments) {
    if (!arguments.json.empty()) json.emplace(arguments.json);
    if (!arguments.svg.empty()) svg.emplace(arguments.svg);
  }
  static void finish(std::optional<OutputFile>& file, const std::string& text) {
    if (!file) return;
    file->write(text.data(), text.size());
    file->finish();
  }
  std::optional<OutputFile> json, svg;
};

}  // namespace

SearchResult run_search_command(const SearchArguments& arguments, const Group& world, Activity& activity) {
  SearchResult result{.data = arguments.data, .seed = arguments.seed, .by = arguments.by, .limit = arguments.limit};
  result.directory = agreed_model(arguments.checkpoint, world, activity);
  std::optional<OpenedModel> model;
  std::optional<Dataset> data;
  std::optional<SearchFiles> files;
  agreed(world, activity, "opening the model", [&] {
    model.emplace(result.directory, arguments.sequence_length);
    result.checkpoint = model->weights.model().checkpoint() != nullptr;
    result.space = exportable(model->space, model->config.exits);
    if (count_of(result.space) < 2)
      fail(Exit::configuration, "{}: it has no subnets but itself; `supernet:` trains some, and an exit is one", result.directory);
  });
  agreed(world, activity, "opening data", [&] { data.emplace(open_samples(arguments.data, model->config, activity)); });
  agreed(world, activity, "opening output", [&] {
    if (world.rank() == 0) files.emplace(arguments);
  });
  omp_set_num_threads(model->config.training.threads);
  result.sequence_length = model->config.training.sequence_length;
  result.samples = std::min(arguments.samples, data->samples_per_epoch());
  const Measuring by{*model, *data, result.samples, result.directory, world, activity};
  Search(arguments, by, result).run();
  agreed(world, activity, "writing output", [&] {
    if (files) SearchFiles::finish(files->json, search_json(result)), SearchFiles::finish(files->svg, search_plot(result));
  });
  return result;
}

}  // namespace offramp
