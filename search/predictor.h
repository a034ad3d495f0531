// Predictor: what some number of a subnet will be, such as its loss, from that of the few that were measured: a ridge regression
// (search/ridge.h) of second degree in the logarithms of its sizes, which a space of some sizes an axis determines with few rows, and
// which says itself how good it is.
//
//   const Predictor loss(space, model, measured, losses);
//   loss({.num_hidden_layers = 4});
//   fmt::print("{:.3f}, rank correlation {:.2f}", loss.error(), loss.rank_correlation());
#pragma once
#include <span>
#include <vector>

#include "models/subnet.h"
#include "search/ridge.h"

namespace offramp {

class Predictor {
 public:
  Predictor(const Space& space, const ModelConfig& model, std::span<const Subnet> subnets, std::span<const double> values);
  double operator()(const Subnet& subnet) const { return fit_(row_of(subnet)); }

  // Of each measured one as all others predict it: root of the mean squared error, and Spearman's correlation of ranks (1: the right
  // order; 0 where all values are equal).
  double error() const { return error_; }
  double rank_correlation() const { return rank_correlation_; }

 private:
  std::vector<double> row_of(const Subnet& subnet) const;
  std::vector<std::vector<double>> rows_of(std::span<const Subnet> subnets) const;

  ModelConfig model_;
  std::vector<std::int64_t Subnet::*> axes_;  // that have several sizes
  Ridge fit_;
  double error_ = 0, rank_correlation_ = 0;
};

// Of two lists of equally many values; equal ones share the mean of their ranks.
double rank_correlation(std::span<const double> a, std::span<const double> b);

}  // namespace offramp
