#include "search/ridge.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/check.h"

namespace offramp {
namespace {

using Matrix = std::vector<std::vector<double>>;

// The lower triangle L with L Lᵀ = a, which is symmetric and positive.
Matrix cholesky(Matrix a) {
  for (std::size_t j = 0; j < a.size(); ++j)
    for (std::size_t i = j; i < a.size(); ++i) {
      double rest = a[i][j];
      for (std::size_t k = 0; k < j; ++k) rest -= a[i][k] * a[j][k];
      a[i][j] = i == j ? std::sqrt(rest) : rest / a[j][j];
    }
  return a;
}

// x with L Lᵀ x = b.
std::vector<double> solve(const Matrix& l, std::vector<double> b) {
  for (std::size_t i = 0; i < b.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= l[i][k] * b[k];
    b[i] /= l[i][i];
  }
  for (std::size_t i = b.size(); i-- > 0;) {
    for (std::size_t k = i + 1; k < b.size(); ++k) b[i] -= l[k][i] * b[k];
    b[i] /= l[i][i];
  }
  return b;
}

double dot(std::span<const double> a, std::span<const double> b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

struct Fit {
  std::vector<double> weights, left_out;
  double error = std::numeric_limits<double>::infinity();  // sum of squares of what is left out
};

// Rows of mean 0, and `values` around 0 as well: the level is no weight, and is not held small.
Fit fit_with(double penalty, const Matrix& rows, std::span<const double> values) {
  const std::size_t n = rows.size(), features = rows.front().size();
  Matrix gram(features, std::vector<double>(features));
  std::vector<double> moments(features);
  for (std::size_t r = 0; r < n; ++r)
    for (std::size_t i = 0; i < features; ++i) {
      moments[i] += rows[r][i] * values[r];
      for (std::size_t j = 0; j < features; ++j) gram[i][j] += rows[r][i] * rows[r][j];
    }
  for (std::size_t i = 0; i < features; ++i) gram[i][i] += penalty * static_cast<double>(n);
  const Matrix root = cholesky(std::move(gram));
  Fit fit{.weights = solve(root, moments), .left_out = {}, .error = 0};
  for (std::size_t r = 0; r < n; ++r) {
    const double leverage = 1.0 / static_cast<double>(n) + dot(rows[r], solve(root, rows[r]));
    const double missed = (values[r] - dot(rows[r], fit.weights)) / std::max(1e-9, 1 - leverage);
    fit.left_out.push_back(values[r] - missed);
    fit.error += missed * missed;
  }
  return fit;
}

}  // namespace

Ridge::Ridge(const Matrix& rows, std::span<const double> values) {
  OFFRAMP_CHECK(!rows.empty() && rows.size() == values.size(), "[ridge] {} rows, {} values", rows.size(), values.size());
  const auto n = static_cast<double>(rows.size());
  for (std::size_t i = 0; i < rows.front().size(); ++i) {
    double sum = 0, squares = 0;
    for (const auto& row : rows) sum += row[i];
    for (const auto& row : rows) squares += (row[i] - sum / n) * (row[i] - sum / n);
    mean_.push_back(sum / n);
    scale_.push_back(squares > 0 ? std::sqrt(squares / n) : 1);
  }
  level_ = std::accumulate(values.begin(), values.end(), 0.0) / n;
  Matrix scaled = rows;
  for (auto& row : scaled)
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = (row[i] - mean_[i]) / scale_[i];
  std::vector<double> around(values.begin(), values.end());
  for (double& value : around) value -= level_;
  Fit best;
  for (const double penalty : {1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0})
    if (Fit fit = fit_with(penalty, scaled, around); fit.error < best.error) best = std::move(fit);
  OFFRAMP_CHECK(!best.weights.empty() || rows.front().empty(), "[ridge] values that are not finite");
  weights_ = std::move(best.weights), left_out_ = std::move(best.left_out);
  for (double& value : left_out_) value += level_;
}

double Ridge::operator()(std::span<const double> row) const {
  double value = level_;
  for (std::size_t i = 0; i < weights_.size(); ++i) value += weights_[i] * (row[i] - mean_[i]) / scale_[i];
  return value;
}

}  // namespace offramp
