// offramp search: what it says of a subnet is what eval says, what it calls best nothing that it measured beats, and what cannot be is said
// before hours are spent.
#include "trainer/search_command.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>

#include "comm/in_process.h"
#include "search/pareto.h"
#include "tests/trainer/saved_supernet.h"
#include "trainer/eval_command.h"
#include "trainer/subnets.h"

namespace offramp::testing {
namespace {

class SearchCommand : public SavedSupernet {
 protected:
  SearchArguments arguments(const std::string& saved = "saved") const {
    return {.checkpoint = at(saved), .data = at("tokens"), .samples = kSamples, .measure = 20, .seed = 3};
  }

  SearchResult search(const SearchArguments& arguments, int ranks = 1) const {
    SearchResult result;
    std::mutex mutex;
    run_in_process(ranks, [&](Group world) {
      Activity activity;
      SearchResult mine = run_search_command(arguments, world, activity);
      const std::lock_guard lock(mutex);
      if (world.rank() == 0) result = std::move(mine);
    });
    return result;
  }

  Error refused(const SearchArguments& arguments) const {
    try {
      search(arguments);
    } catch (const Error& error) {
      return error;
    }
    return Error(Exit::ok, "nothing was thrown");
  }

  // As a model of its own.
  double evaluated(const Subnet& subnet) const {
    Activity activity;
    const std::string text = run_eval_command({at("saved"), at("tokens"), kSamples, to_text(subnet), 0, true}, Group(), activity);
    return nlohmann::json::parse(text)["final_loss"].get<double>();
  }
};

std::size_t proposed(const SearchResult& result) {
  return static_cast<std::size_t>(
      std::ranges::count_if(result.subnets, [](const MeasuredSubnet& s) { return s.predicted_loss.has_value(); }));
}

TEST_F(SearchCommand, MeasuresWhatEvalMeasures) {
  const SearchResult result = search(arguments());
  EXPECT_GT(proposed(result), 4u);
  EXPECT_EQ(result.subnets.size(), 20 + proposed(result));
  for (std::size_t i = 0; i < result.subnets.size(); i += 3) {
    const MeasuredSubnet& measured = result.subnets[i];
    SCOPED_TRACE(to_text(measured.subnet));
    EXPECT_NEAR(measured.loss, evaluated(measured.subnet), 1e-5 * measured.loss);
    EXPECT_EQ(measured.flops, cost_of(measured.subnet, config_).flops);
    EXPECT_EQ(measured.parameters, cost_of(measured.subnet, config_).parameters);
  }
}

TEST_F(SearchCommand, FindsTheLeastLossWithinTheLimit) {
  SearchArguments all = arguments();
  all.measure = 108;
  const SearchResult everything = search(all);
  ASSERT_EQ(everything.subnets.size(), 108u);
  EXPECT_FALSE(everything.loss);
  for (const CostKind by : {CostKind::flops, CostKind::parameters}) {
    SearchArguments limited = arguments();
    limited.by = by;
    limited.limit = everything.subnets[everything.best].cost(by) - 1;  // so that the best of all is beyond
    limited.measure = 100;
    const SearchResult result = search(limited);
    EXPECT_TRUE(std::ranges::any_of(result.subnets, [&](const MeasuredSubnet& s) { return s.loss < result.subnets[result.best].loss; }));
    const MeasuredSubnet& best = result.subnets[result.best];
    EXPECT_LE(best.cost(by), *limited.limit);
    double least = INFINITY;
    for (const MeasuredSubnet& measured : result.subnets)
      if (measured.cost(by) <= *limited.limit) least = std::min(least, measured.loss);
    EXPECT_EQ(best.loss, least);
    std::vector<CostAndLoss> points;
    for (const MeasuredSubnet& measured : result.subnets) points.push_back({measured.cost(by), measured.loss});
    EXPECT_EQ(result.front, pareto_front(points));
  }
}

TEST_F(SearchCommand, IsTheSameAgainAndOnMoreRanks) {
  const SearchResult one = search(arguments()), again = search(arguments()), two = search(arguments(), 2);
  EXPECT_EQ(search_json(one), search_json(again));
  EXPECT_EQ(search_plot(one), search_plot(again));
  ASSERT_EQ(one.subnets.size(), two.subnets.size());
  for (std::size_t i = 0; i < one.subnets.size(); ++i) {
    EXPECT_EQ(one.subnets[i].subnet, two.subnets[i].subnet);
    EXPECT_NEAR(one.subnets[i].loss, two.subnets[i].loss, 1e-12);
  }
  EXPECT_EQ(one.best, two.best);
  SearchArguments other = arguments();
  other.seed = 4;
  EXPECT_NE(search_json(search(other)), search_json(one));
}

TEST_F(SearchCommand, MeasuresLatencies) {
  SearchArguments by_time = arguments();
  by_time.by = CostKind::latency, by_time.limit = 1;  // second
  const SearchResult result = search(by_time, 2);
  ASSERT_TRUE(result.latency);
  for (const MeasuredSubnet& measured : result.subnets) EXPECT_GT(measured.latency_s.value(), 1e-6);
  EXPECT_FALSE(search(arguments()).subnets[0].latency_s);
}

TEST_F(SearchCommand, ALimitThatNothingMeets) {
  const Subnet smallest = {
      .num_hidden_layers = 1, .hidden_size = 16, .intermediate_size = 20, .num_key_value_heads = 1, .queries_per_group = 1};
  for (const CostKind by : {CostKind::flops, CostKind::parameters, CostKind::latency}) {
    SearchArguments impossible = arguments();
    impossible.by = by, impossible.limit = 1e-9;
    const Error error = refused(impossible);
    EXPECT_EQ(error.code, Exit::configuration);
    const std::string what = error.what();
    EXPECT_NE(what.find(fmt::format("--max-{}", name_of(by))), std::string::npos) << what;
    if (by == CostKind::latency) continue;  // measured, whatever is fastest
    const SubnetCost cost = cost_of(smallest, config_);
    EXPECT_NE(what.find(to_text(smallest)), std::string::npos) << what;
    EXPECT_NE(what.find(cost_text(by, by == CostKind::flops ? cost.flops : cost.parameters)), std::string::npos) << what;
  }
}

// An exit with an output matrix of its own holds more than the layer behind it, where the model ties its own to the embedding.
TEST_F(SearchCommand, TheCheapestNeedNotBeTheShallowest) {
  config_.model = small_model(true);
  config_.model.vocab_size = 200;
  config_.exits = {{.layer = 1}, {.layer = 2, .shared_output = true}};
  Space space = kSpace;  // in which one of thousands keeps to the limit, which drawing does not find
  space.intermediate_size.clear();
  for (std::int64_t size = 1; size <= config_.model.intermediate_size; ++size) space.intermediate_size.push_back(size);
  save("tied", space);
  Subnet shallow = smallest(space), cheapest = shallow;
  cheapest.num_hidden_layers = 2;
  const double cost = cost_of(cheapest, config_).parameters;
  ASSERT_LT(cost, cost_of(shallow, config_).parameters);
  SearchArguments tight = arguments("tied");
  tight.by = CostKind::parameters, tight.limit = cost, tight.measure = 2;
  const SearchResult result = search(tight);
  EXPECT_EQ(result.subnets[result.best].subnet, cheapest);
  tight.limit = cost - 1;
  EXPECT_NE(std::string(refused(tight).what()).find(to_text(cheapest)), std::string::npos) << refused(tight).what();
}

TEST_F(SearchCommand, ExitsAreSubnets) {
  const SearchResult result = search(arguments("plain"));
  ASSERT_EQ(result.subnets.size(), 3u);
  EXPECT_EQ(result.subnets[1].subnet, Subnet{.num_hidden_layers = 1});
  EXPECT_NE(search_table(result).find("all 3 subnets measured"), std::string::npos) << search_table(result);
  config_.exits = {{.layer = 1, .head = HeadKind::bare}};
  save("bare", {});
  EXPECT_NE(std::string(refused(arguments("bare")).what()).find("no subnets but itself"), std::string::npos);
}

TEST_F(SearchCommand, OpensItsFilesFirst) {
  SearchArguments nowhere = arguments();
  nowhere.svg = at("nowhere/plot.svg"), nowhere.samples = 1000000000;
  EXPECT_NE(std::string(refused(nowhere).what()).find("nowhere/plot.svg"), std::string::npos);
  SearchArguments here = arguments();
  here.json = at("found.json"), here.svg = at("found.svg");
  const SearchResult result = search(here, 2);
  EXPECT_EQ(read_bytes(here.json), search_json(result));
  EXPECT_EQ(read_bytes(here.svg), search_plot(result));
}

TEST_F(SearchCommand, SaysWhatItFound) {
  SearchArguments limited = arguments();
  limited.limit = 9000;
  const SearchResult result = search(limited);
  const std::string table = search_table(result), best = to_text(result.subnets[result.best].subnet);
  EXPECT_NE(table.find("20 of 108 subnets measured"), std::string::npos) << table;
  EXPECT_NE(table.find(fmt::format("offramp export hf {} DIR --subnet '{}'", at("saved/step-7"), best)), std::string::npos) << table;
  EXPECT_EQ(static_cast<std::size_t>(std::ranges::count(table, '{')), result.front.size() + 1) << table;
  const auto json = nlohmann::json::parse(search_json(result));
  EXPECT_EQ(json["subnets"][json["best"].get<std::size_t>()]["subnet"].dump(), nlohmann::json::parse(best).dump());
  EXPECT_EQ(json["limit"], 9000);
  const std::string plot = search_plot(result);
  std::size_t points = 0;
  for (std::size_t i = plot.find("<title>{"); i != std::string::npos; i = plot.find("<title>{", i + 1)) ++points;
  EXPECT_EQ(points, result.subnets.size());
}

}  // namespace
}  // namespace offramp::testing
