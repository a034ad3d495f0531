#include "search/predictor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace offramp {
namespace {

std::vector<std::int64_t Subnet::*> elastic_axes(const Space& space) {
  std::vector<std::int64_t Subnet::*> axes;
  for (const SubnetAxis& axis : subnet_axes())
    if ((space.*axis.choices).size() > 1) axes.push_back(axis.size);
  return axes;
}

std::vector<double> ranks_of(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
  }
  return ranks;
}

}  // namespace

double rank_correlation(std::span<const double> a, std::span<const double> b) {
  const std::vector<double> x = ranks_of(a), y = ranks_of(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

Predictor::Predictor(const Space& space, const ModelConfig& model, std::span<const Subnet> subnets, std::span<const double> values)
    : model_(model), axes_(elastic_axes(space)), fit_(rows_of(subnets), values) {
  double squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) squares += std::pow(fit_.left_out()[i] - values[i], 2);
  error_ = std::sqrt(squares / static_cast<double>(values.size()));
  rank_correlation_ = offramp::rank_correlation(fit_.left_out(), values);
}

// Of each axis the logarithm of its part of the whole, and all products of two.
std::vector<double> Predictor::row_of(const Subnet& subnet) const {
  const Subnet whole = spelled_out({}, model_), sizes = spelled_out(subnet, model_);
  std::vector<double> row;
  for (const auto axis : axes_) row.push_back(std::log2(static_cast<double>(sizes.*axis) / static_cast<double>(whole.*axis)));
  for (std::size_t i = 0; i < axes_.size(); ++i)
    for (std::size_t j = 0; j <= i; ++j) row.push_back(row[i] * row[j]);
  return row;
}

std::vector<std::vector<double>> Predictor::rows_of(std::span<const Subnet> subnets) const {
  std::vector<std::vector<double>> rows;
  for (const Subnet& subnet : subnets) rows.push_back(row_of(subnet));
  return rows;
}

}  // namespace offramp
