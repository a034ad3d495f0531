// What `offramp search` found, for people (search_table), for programs (search_json) and for the eye (search_plot).
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/subnet.h"

namespace offramp {

enum class CostKind { flops, parameters, latency };  // FLOPs of a token's forward; elements; seconds of a sample's forward
inline constexpr CostKind kCostKinds[] = {CostKind::flops, CostKind::parameters, CostKind::latency};
const char* name_of(CostKind kind);
std::string cost_text(CostKind kind, double cost);  // "12.3 MFLOPs a token"

struct MeasuredSubnet {
  Subnet subnet;  // as shortened() writes it
  double loss = 0, accuracy = 0;
  double flops = 0, parameters = 0;
  std::optional<double> latency_s;       // where latency is asked for
  std::optional<double> predicted_loss;  // before it was measured: of those that the search proposed
  double cost(CostKind kind) const {
    return kind == CostKind::flops ? flops : kind == CostKind::parameters ? parameters : latency_s.value_or(0);
  }
};

// How well a predictor knows what it was not told (search/predictor.h).
struct PredictorQuality {
  double error = 0, rank_correlation = 0;
};

struct SearchResult {
  std::string directory, data;
  bool checkpoint = true;  // false: a Hugging Face directory
  std::int64_t samples = 0, sequence_length = 0;
  std::uint64_t seed = 0;
  Space space;
  CostKind by = CostKind::flops;
  std::optional<double> limit;
  std::vector<MeasuredSubnet> subnets;            // in the order in which they were measured
  std::optional<PredictorQuality> loss, latency;  // of the predictors; none where all subnets were measured
  std::vector<std::size_t> front;                 // numbers in subnets, the cheapest first
  std::size_t best = 0;                           // of least loss within the limit
};

std::string search_table(const SearchResult& result);
std::string search_json(const SearchResult& result);
// An SVG picture: loss over cost, the front as a line, the limit, and the best one's ring.
std::string search_plot(const SearchResult& result);

}  // namespace offramp
