#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "data/permutation.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

using DatasetFiles = Files;
using Tokens = std::vector<std::int32_t>;

Tokens sample(const Dataset& data, std::int64_t g, std::int64_t sequence_length) {
  Tokens tokens(static_cast<std::size_t>(sequence_length) + 1);
  data.read(g, tokens, {});
  return tokens;
}

Tokens starts(const Dataset& data, std::int64_t g, std::size_t sequence_length) {
  Tokens first_key(sequence_length, -1);
  data.document_starts(g, first_key);
  return first_key;
}

TEST_F(DatasetFiles, SamplesFollowTheContract) {
  write_tokens("t", {counting(0, 7), counting(7, 14)});  // 21 tokens: floor(20 / 4) = 5 samples of 4
  const Dataset data({.corpora = {{path("t")}}, .sequence_length = 4, .vocab_size = 100, .shuffle = false});
  EXPECT_EQ(data.tokens(), 21);
  ASSERT_EQ(data.samples_per_epoch(), 5);
  for (std::int32_t g = 0; g < 12; ++g) EXPECT_EQ(sample(data, g, 4), counting(g % 5 * 4, 5)) << g;
  const Dataset shorter({.corpora = {{path("t")}}, .sequence_length = 7, .vocab_size = 100, .shuffle = false});
  EXPECT_EQ(shorter.samples_per_epoch(), 2);  // 20 / 7: the last six tokens are in no sample
}

TEST_F(DatasetFiles, ShuffledEpochsReadEverySampleOnceInTheirOwnOrder) {
  write_tokens("t", {counting(0, 401)});
  const auto order = [&](std::uint64_t seed, std::int64_t epoch) {
    const Dataset data({.corpora = {{path("t")}}, .sequence_length = 4, .vocab_size = 401, .seed = seed});
    Tokens firsts;
    for (std::int64_t g = 0; g < 100; ++g) firsts.push_back(sample(data, epoch * 100 + g, 4)[0]);
    return firsts;
  };
  const Tokens first = order(1, 0);
  EXPECT_EQ(first, order(1, 0));
  EXPECT_NE(first, order(1, 1));
  EXPECT_NE(first, order(2, 0));
  EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
  for (const auto& firsts : {first, order(1, 1), order(2, 7)}) {
    const std::set<std::int32_t> all(firsts.begin(), firsts.end());
    EXPECT_EQ(all.size(), 100u);
    for (auto token : all) EXPECT_EQ(token % 4, 0);
  }
}

TEST(Permutation, IsABijectionOfAnySize) {
  for (std::int64_t size : {1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 10000, 65537}) {
    const Permutation order(size, Key{3, Use::shuffle, 1});
    std::vector<bool> seen(static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = order(i);
      ASSERT_TRUE(at >= 0 && at < size);
      EXPECT_FALSE(seen[static_cast<std::size_t>(at)]);
      seen[static_cast<std::size_t>(at)] = true;
    }
  }
  const Permutation huge(std::int64_t{1} << 61, Key{});
  EXPECT_NE(huge(0), huge(1));
}

// Positions are uniform: over many epochs, element 0 of eight goes everywhere about equally often. 4,000 draws, 500 expected
// in each place with a deviation of 21; five of them are allowed.
TEST(Permutation, PutsAnElementAnywhere) {
  std::vector<int> counts(8);
  for (std::uint64_t epoch = 0; epoch < 4000; ++epoch) ++counts[static_cast<std::size_t>(Permutation(8, Key{1, Use::shuffle, epoch})(0))];
  for (int count : counts) EXPECT_NEAR(count, 500, 105);
}

TEST(Permutation, KeepsNoNeighboursTogether) {
  const Permutation order(100000, Key{5, Use::shuffle, 0});
  int neighbours = 0;
  for (std::int64_t i = 0; i + 1 < 100000; ++i) neighbours += std::abs(order(i + 1) - order(i)) == 1;
  EXPECT_LE(neighbours, 12);  // 2 expected
}

TEST(Corpora, NeverLeaveTheirWeightsByASample) {
  for (const auto& weights : std::vector<std::vector<double>>{
           {1}, {1, 1}, {3, 1}, {0.3, 0.7}, {0.01, 0.99}, {1, 2, 7}, {0.5, 0.3, 0.2}, {3.14159, 2.71828, 1.41421}, {1e-3, 5, 7, 11}}) {
    const Corpora blend(weights);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<std::int64_t> taken(weights.size());
    for (std::int64_t g = 0; g < 20000; ++g) {
      const auto [corpus, index] = blend.at(g);
      ASSERT_EQ(index, taken[corpus]++) << g;
      for (std::size_t c = 0; c < weights.size(); ++c)
        ASSERT_LT(std::abs(static_cast<double>(taken[c]) - weights[c] / sum * static_cast<double>(g + 1)), 1.0 + 1e-2) << g << " " << c;
    }
  }
}

// The rule itself, in whole numbers: the corpus that lags most, the first of equals.
TEST(Corpora, TakeTheOneLaggingMost) {
  const std::vector<std::int64_t> weights = {2, 5, 3};
  const Corpora blend({2, 5, 3});
  EXPECT_EQ(blend.period(), 10);
  std::vector<std::int64_t> taken(3);
  for (std::int64_t g = 0; g < 5000; ++g) {
    std::size_t best = 0;
    for (std::size_t c = 1; c < 3; ++c)
      if (weights[c] * (g + 1) - 10 * taken[c] > weights[best] * (g + 1) - 10 * taken[best]) best = c;
    ASSERT_EQ(blend.at(g).corpus, best) << g;
    ++taken[best];
  }
}

TEST(Corpora, AreReachedAtAnySampleAtOnce) {
  const Corpora blend({0.3, 0.7});
  const std::int64_t far = 1'000'000'000'000;
  std::int64_t second = 0;
  for (std::int64_t g = far; g < far + 1000; ++g) second += blend.at(g).corpus == 1;
  EXPECT_NEAR(static_cast<double>(second), 700, 1);
  const auto [corpus, index] = blend.at(far);
  EXPECT_NEAR(static_cast<double>(index), static_cast<double>(far) * (corpus == 1 ? 0.7 : 0.3), 1);
}

TEST(Corpora, RefuseWeightsThatAreNotAboveZero) {
  expect_refused(Exit::configuration, {"weight 0"}, [] { Corpora({1, 0}); });
  expect_refused(Exit::configuration, {"weight -1"}, [] { Corpora({-1, 2}); });
  expect_refused(Exit::configuration, {"weight nan"}, [] { Corpora({std::nan("")}); });
}

TEST_F(DatasetFiles, BlendsCorporaEachInItsOwnEpochs) {
  write_tokens("a", {counting(0, 13)});     // 3 samples of 4
  write_tokens("b", {counting(100, 100)});  // 24
  const Dataset data({.corpora = {{path("a"), 3}, {path("b"), 1}}, .sequence_length = 4, .vocab_size = 200, .shuffle = false});
  EXPECT_EQ(data.samples_per_epoch(), 27);
  EXPECT_EQ(data.tokens(), 113);
  std::int32_t a = 0, b = 0;
  for (std::int64_t g = 0; g < 40; ++g) {
    const Tokens tokens = sample(data, g, 4);
    EXPECT_EQ(tokens, tokens[0] < 100 ? counting(a++ % 3 * 4, 5) : counting(100 + b++ * 4, 5));
  }
  EXPECT_EQ(a, 30);
  EXPECT_EQ(b, 10);
}

TEST_F(DatasetFiles, DocumentStartsRestartAfterEachDocument) {
  write_tokens("t", {counting(0, 3), {9}, {}, counting(0, 9)});  // begin at 0, 3, 4, end 13
  const Dataset data({.corpora = {{path("t")}}, .sequence_length = 6, .vocab_size = 100, .shuffle = false});
  ASSERT_EQ(data.samples_per_epoch(), 2);
  EXPECT_EQ(starts(data, 0, 6), (Tokens{0, 0, 0, 3, 4, 4}));
  EXPECT_EQ(starts(data, 1, 6), (Tokens{0, 0, 0, 0, 0, 0}));  // its document began in the sample before
}

TEST_F(DatasetFiles, AnEndTokenBelongsToTheDocumentItEnds) {
  write_tokens("t", {{1, 2, 99, 3, 4, 99, 99, 5, 6}});
  const Dataset without({.corpora = {{path("t")}}, .sequence_length = 8, .vocab_size = 100, .shuffle = false});
  EXPECT_EQ(starts(without, 0, 8), (Tokens{0, 0, 0, 0, 0, 0, 0, 0}));
  const Dataset with({.corpora = {{path("t")}}, .sequence_length = 8, .vocab_size = 100, .shuffle = false, .end_token = 99});
  EXPECT_EQ(starts(with, 0, 8), (Tokens{0, 0, 0, 3, 3, 3, 6, 7}));
}

TEST_F(DatasetFiles, LossMaskCountsTargets) {
  write_tokens("t", {counting(0, 9)});
  write_tokens("m", {{1, 0, 1, 1, 0, 0, 2, 0, 1}}, TokenType::u8);
  const Dataset data({.corpora = {{path("t")}}, .loss_mask = path("m"), .sequence_length = 4, .vocab_size = 100, .shuffle = false});
  EXPECT_TRUE(data.has_loss_mask());
  Tokens tokens(5);
  std::vector<std::uint8_t> mask(4, 7);
  data.read(0, tokens, mask);
  EXPECT_EQ(mask, (std::vector<std::uint8_t>{0, 1, 1, 0}));
  data.read(1, tokens, mask);
  EXPECT_EQ(mask, (std::vector<std::uint8_t>{0, 1, 0, 1}));
}

TEST_F(DatasetFiles, RefusesWhatCannotBeRead) {
  write_tokens("t", {counting(0, 9)});
  write_tokens("m", {counting(0, 8)}, TokenType::u8);
  const auto open = [&](DatasetOptions options) {
    options.sequence_length = options.sequence_length ? options.sequence_length : 4;
    options.vocab_size = 100;
    return [options] { Dataset data(options); };
  };
  expect_refused(Exit::data, {"m.bin", "8 values", "9 tokens"}, open({.corpora = {{path("t")}}, .loss_mask = path("m")}));
  expect_refused(Exit::configuration, {"loss_mask"}, open({.corpora = {{path("t")}, {path("t")}}, .loss_mask = path("m")}));
  expect_refused(Exit::configuration, {"no corpus"}, open({}));
  expect_refused(Exit::data, {"t.bin", "9 tokens", "sample of 9"}, open({.corpora = {{path("t")}}, .sequence_length = 9}));
  open({.corpora = {{path("t")}}, .sequence_length = 8})();
  expect_refused(Exit::data, {"u.idx"}, open({.corpora = {{path("t")}, {path("u")}}}));
}

TEST_F(DatasetFiles, RefusesATokenOutsideTheVocabularyWhenItIsRead) {
  write_tokens("t", {counting(0, 9)});
  const Dataset data({.corpora = {{path("t")}}, .sequence_length = 4, .vocab_size = 8, .shuffle = false});
  sample(data, 0, 4);
  expect_refused(Exit::data, {"t.bin: offset 16: token 8", "vocabulary of 8"}, [&] { sample(data, 1, 4); });
}

}  // namespace
}  // namespace offramp
