#include "data/corpora.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kLongestPeriod = 1 << 22, kBlock = 1024;
constexpr double kExact = 1e-12;  // weights written in decimal come out as whole shares to about this

std::int64_t share_of(double weight, std::int64_t period) { return std::llround(weight * static_cast<double>(period)); }

// The shortest period in which all weights are whole shares, or the longest allowed.
std::int64_t find_period(const std::vector<double>& weights) {
  const auto whole = [](double w, std::int64_t period) {
    const std::int64_t share = share_of(w, period);
    return share > 0 && std::abs(w * static_cast<double>(period) - static_cast<double>(share)) <= kExact * static_cast<double>(period);
  };
  for (std::int64_t period = 1; period < kLongestPeriod; ++period)
    if (std::all_of(weights.begin(), weights.end(), [&](double w) { return whole(w, period); })) return period;
  return kLongestPeriod;
}

}  // namespace

Corpora::Corpora(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) {
    if (!(w > 0) || !std::isfinite(sum)) fail(Exit::configuration, "a corpus has the weight {}; weights are numbers above 0", w);
    w /= sum;
  }
  const std::int64_t period = find_period(weights);
  for (double w : weights) shares_.push_back(std::max<std::int64_t>(1, share_of(w, period)));
  period_ = std::accumulate(shares_.begin(), shares_.end(), std::int64_t{0});

  std::vector<std::int64_t> taken(shares_.size(), 0);
  for (std::int64_t g = 0; g < period_; ++g) {
    if (g % kBlock == 0) counts_.insert(counts_.end(), taken.begin(), taken.end());
    ++taken[next(g, taken)];
  }
  OFFRAMP_CHECK(taken == shares_, "a blend of period {} did not return to its start", period_);
}

std::size_t Corpora::next(std::int64_t position, std::vector<std::int64_t>& taken) const {
  std::size_t best = 0;
  std::int64_t best_lag = 0;
  for (std::size_t c = 0; c < shares_.size(); ++c) {
    const std::int64_t lag = shares_[c] * (position + 1) - taken[c] * period_;
    if (c == 0 || lag > best_lag) best = c, best_lag = lag;
  }
  return best;
}

Corpora::Pick Corpora::at(std::int64_t g) const {
  const std::int64_t round = g / period_, position = g % period_, block = position / kBlock;
  const auto counts = counts_.begin() + static_cast<std::ptrdiff_t>(block * std::ssize(shares_));
  std::vector<std::int64_t> taken(counts, counts + std::ssize(shares_));
  for (std::int64_t p = block * kBlock; p < position; ++p) ++taken[next(p, taken)];
  const std::size_t corpus = next(position, taken);
  return {corpus, round * shares_[corpus] + taken[corpus]};
}

}  // namespace offramp
