// A weighted blend of corpora. Sample g comes from the corpus that lags most behind its weight, the first of equals:
// argmax_c w_c·(g + 1) − taken_c, weights normalised to sum 1. So the blend is the same for any run, rank count or resume.
//
// The weights are taken as integers W_c over their sum M: exact for weights such as 1:3 or 0.3:0.7, else to one part in four
// million. After M samples every corpus has been taken exactly W_c times and the choice repeats, so any g is found from
// g mod M and a table of counts: constant time, at most a few MB.
//
//   Corpora blend({3, 1});
//   auto [corpus, index] = blend.at(1'000'000'000);    // its index-th sample of that corpus
#pragma once
#include <cstdint>
#include <vector>

namespace offramp {

class Corpora {
 public:
  explicit Corpora(std::vector<double> weights);  // each above 0; fail(Exit::configuration) otherwise

  struct Pick {
    std::size_t corpus = 0;
    std::int64_t index = 0;  // how many of its samples come before
  };
  Pick at(std::int64_t g) const;
  std::int64_t period() const { return period_; }

 private:
  std::size_t next(std::int64_t position, std::vector<std::int64_t>& taken) const;

  std::vector<std::int64_t> shares_;  // W_c
  std::int64_t period_ = 1;           // M
  std::vector<std::int64_t> counts_;  // [period / kBlock + 1, corpora]: taken before each block of the period
};

}  // namespace offramp
