// A search's result as a table and as JSON.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/subnet_json.h"
#include "trainer/search_result.h"

namespace offramp {
namespace {

using Json = nlohmann::ordered_json;

std::string how_measured(const SearchResult& result) {
  std::size_t proposed = 0;
  double squares = 0;
  for (const MeasuredSubnet& measured : result.subnets)
    if (measured.predicted_loss) ++proposed, squares += std::pow(*measured.predicted_loss - measured.loss, 2);
  if (!result.loss) return fmt::format("all {} subnets measured\n", result.subnets.size());
  std::string text =
      fmt::format("{} of {:.0f} subnets measured; the loss of each, predicted from the others: off by {:.4f}, rank correlation {:.3f}\n",
                  result.subnets.size() - proposed, count_of(result.space), result.loss->error, result.loss->rank_correlation);
  if (result.latency)
    text += fmt::format("its latency: off by {:.1f} %, rank correlation {:.3f}\n", 100 * std::expm1(result.latency->error),
                        result.latency->rank_correlation);
  if (proposed > 0)
    text += fmt::format("{} more measured that evolution proposed: predictions off by {:.4f}\n", proposed,
                        std::sqrt(squares / static_cast<double>(proposed)));
  return text;
}

std::string row_of(const MeasuredSubnet& measured, bool best) {
  const std::string latency = measured.latency_s ? fmt::format("{:>10.3f}", 1e3 * *measured.latency_s) : "";
  return fmt::format("{} {:>13.3f} {:>12.3f} {} {:>9.4f} {:>9.4f}  {}\n", best ? '*' : ' ', measured.flops / 1e6, measured.parameters / 1e6,
                     latency, measured.loss, measured.accuracy, to_text(measured.subnet));
}

Json json_of(const PredictorQuality& quality) { return {{"error", quality.error}, {"rank_correlation", quality.rank_correlation}}; }

Json json_of(const MeasuredSubnet& measured) {
  Json json = {{"subnet", Json::parse(to_text(measured.subnet))},
               {"loss", measured.loss},
               {"accuracy", measured.accuracy},
               {"flops", measured.flops},
               {"parameters", measured.parameters},
               {"latency_s", nullptr},
               {"predicted_loss", nullptr}};
  if (measured.latency_s) json["latency_s"] = *measured.latency_s;
  if (measured.predicted_loss) json["predicted_loss"] = *measured.predicted_loss;
  return json;
}

}  // namespace

const char* name_of(CostKind kind) { return kind == CostKind::flops ? "flops" : kind == CostKind::parameters ? "parameters" : "latency"; }

std::string cost_text(CostKind kind, double cost) {
  if (kind == CostKind::flops) return fmt::format("{:.6g} MFLOPs a token", cost / 1e6);
  if (kind == CostKind::parameters) return fmt::format("{:.6g} million parameters", cost / 1e6);
  return fmt::format("{:.4g} ms a sample", cost * 1e3);
}

std::string search_table(const SearchResult& result) {
  std::string text =
      fmt::format("{}, {} samples of {} tokens of {}\n", result.directory, result.samples, result.sequence_length, result.data) +
      how_measured(result) + fmt::format("what nothing beats in both loss and {}:\n\n", name_of(result.by));
  const bool times = result.by == CostKind::latency;
  text += fmt::format("  {:>13} {:>12} {} {:>9} {:>9}  {}\n", "MFLOPs/token", "parameters/M",
                      times ? fmt::format("{:>10}", "ms/sample") : "", "loss", "accuracy", "subnet");
  for (const std::size_t i : result.front) text += row_of(result.subnets[i], i == result.best);
  const MeasuredSubnet& best = result.subnets[result.best];
  const std::string within = result.limit ? fmt::format(" within {}", cost_text(result.by, *result.limit)) : "";
  const std::string import = result.checkpoint ? "" : fmt::format("  offramp import hf {} CHECKPOINT\n", result.directory);
  return text + fmt::format("\n* of the least loss{}; to have it as a model of its own:\n{}  offramp export hf {} DIR --subnet '{}'\n",
                            within, import, result.checkpoint ? result.directory : "CHECKPOINT", to_text(best.subnet));
}

std::string search_json(const SearchResult& result) {
  Json json = {{"checkpoint", result.directory},
               {"data", result.data},
               {"samples", result.samples},
               {"sequence_length", result.sequence_length},
               {"seed", result.seed},
               {"space", to_json(result.space)},
               {"by", name_of(result.by)},
               {"limit", nullptr},
               {"predictor", {{"loss", nullptr}, {"log_latency", nullptr}}}};
  if (result.limit) json["limit"] = *result.limit;
  if (result.loss) json["predictor"]["loss"] = json_of(*result.loss);
  if (result.latency) json["predictor"]["log_latency"] = json_of(*result.latency);
  json["best"] = result.best, json["front"] = result.front, json["subnets"] = Json::array();
  for (const MeasuredSubnet& measured : result.subnets) json["subnets"].push_back(json_of(measured));
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace offramp
