// Ridge regression: a linear fit whose weights are held small, so that few and nearly equal rows do not make them wild. How much, is
// what predicts best each value from all others, which a fit knows of itself (Golub, Heath, Wahba, "Generalized cross-validation", 1979,
// whose ordinary form this is).
//
//   const Ridge fit(rows, values);
//   double guess = fit(row);
#pragma once
#include <span>
#include <vector>

namespace offramp {

class Ridge {
 public:
  // One value a row; at least one row, all equally long.
  Ridge(const std::vector<std::vector<double>>& rows, std::span<const double> values);
  double operator()(std::span<const double> row) const;
  // What a fit to all rows but one says of that one.
  const std::vector<double>& left_out() const { return left_out_; }

 private:
  std::vector<double> mean_, scale_, weights_, left_out_;
  double level_ = 0;  // mean value
};

}  // namespace offramp
