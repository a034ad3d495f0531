#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/terminal.h"

namespace offramp {
namespace {

using Row = std::vector<std::string>;

// Readable at any size: 12.3, 54321.0, 1.23e+09.
std::string perplexity_text(double loss) {
  const double perplexity = std::exp(loss);
  return perplexity < 1e6 ? fmt::format("{:.2f}", perplexity) : fmt::format("{:.3g}", perplexity);
}

std::string percent(std::optional<double> share) { return share ? fmt::format("{:.2f}%", 100 * *share) : ""; }

Row row_of(const ExitResult& r) {
  return {r.label,
          fmt::format("{}", r.layer),
          r.head,
          fmt::format("{:.4f}", r.loss),
          perplexity_text(r.loss),
          percent(r.accuracy),
          percent(r.acceptance),
          percent(r.agreement)};
}

}  // namespace

std::string validation_table(const std::string& set, std::int64_t step, const std::vector<ExitResult>& results) {
  return fmt::format("validation on {}, step {}\n", set, step) + results_table(results);
}

std::string results_table(const std::vector<ExitResult>& results) {
  std::vector<Row> rows = {{"", "layer", "head", "loss", "perplexity", "accuracy", "acceptance", "agreement"}};
  for (const auto& result : results) rows.push_back(row_of(result));
  const bool compared = std::ranges::any_of(results, [](const ExitResult& r) { return r.acceptance.has_value(); });
  for (Row& row : rows) row.resize(compared ? 8 : 6);
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    text += fmt::format("  {:<{}}  {:>{}}  {:<{}}", row[0], widths[0], row[1], widths[1], row[2], widths[2]);  // words to the left
    for (std::size_t i = 3; i < row.size(); ++i) text += fmt::format("  {:>{}}", row[i], widths[i]);
    text += "\n";
  }
  return text;
}

}  // namespace offramp
