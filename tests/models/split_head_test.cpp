// A head split by vocabulary over pipeline ranks, its parts one after the other here, gives what the fused one gives.
#include <array>
#include <cmath>
#include <map>

#include "rig.h"

namespace offramp::testing {
namespace {

constexpr std::int64_t kHidden = 16;
constexpr int kParts = 3;  // of 37 rows: 12, 12 and 13

class SplitHeads : public ::testing::TestWithParam<std::tuple<int, std::int64_t>> {  // exit, hidden width of the pass
 protected:
  using Gradients = std::map<std::string, std::map<std::int64_t, float>>;  // by logical element
  static void add(Gradients& all, Parameter& p) {
    const std::vector<float> grad = values(p.grad);
    for (const Piece& piece : p.pieces)
      runs(piece, [&](const offramp::Run& run) {
        for (std::int64_t i = 0; i < run.count; ++i) all[piece.name][run.global + i] += grad[static_cast<std::size_t>(run.local + i)];
      });
  }
  std::shared_ptr<Model> model_of(int part, int parts) { return make_model(rig, tiny_config(), every_exit(), {.heads = {part, parts}}); }
  static Head& head_of(Model& model) { return model.heads[static_cast<std::size_t>(std::get<0>(GetParam()))]; }
  Tensor fresh_sums() {
    const Tensor sums = rig.tensor({kLossSums}, DType::f64);
    fill_zero(rig.ctx, sums);
    return sums;
  }

  Rig rig{Backing::host};
  Subnet subnet{.hidden_size = std::get<1>(GetParam())};
  Tensor x = rig.numbers("x", {kTokens, subnet.hidden_size}), scale = rig.tensor({1});
  Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i == 4 ? -1 : i * 11 % 37; });
};
INSTANTIATE_TEST_SUITE_P(All, SplitHeads, ::testing::Combine(::testing::Range(0, 6), ::testing::Values(kHidden, kHidden / 2)));

void expect_close(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 4e-6) << i;  // sums of about 50 terms of 1 / 16 in another order
}

TEST_P(SplitHeads, GiveTheNumbersOfOne) {
  *scale.as<float>() = 1.0f / 16;
  const auto whole = model_of(0, 1);
  const auto visit = [&](const Visitor& visitor) { head_of(*whole).visit(visitor); };
  zero_gradients(rig, visit);
  const Tensor d_whole = rig.like(x), d_split = rig.like(x), sums = fresh_sums(), split_sums = fresh_sums();
  head_of(*whole).exit(rig.ctx, d_whole, sums, {.x = x, .labels = labels, .scale = scale, .subnet = subnet}, {.length = kSequence}, true);
  Gradients expected, got;
  visit([&](Parameter& p) { add(expected, p); });

  std::vector<std::shared_ptr<Model>> parts;
  for (int p = 0; p < kParts; ++p) {
    parts.push_back(model_of(p, kParts));
    zero_gradients(rig, [&](const Visitor& visitor) { head_of(*parts.back()).visit(visitor); });
  }
  const Tensor top = rig.like(x), statistics = rig.tensor({kParts, 4 * kTokens}), share = rig.like(x), d_top = rig.like(x);
  fill_zero(rig.ctx, d_top);
  Slot slot(rig.slab, Keep::everything, {.length = kSequence}, {}, subnet);
  head_of(*parts[0]).tap(rig.ctx, top, x, slot);
  std::vector<ScoresIn> in;
  for (int p = 0; p < kParts; ++p) {
    OutputMatrix& output = head_of(*parts[static_cast<std::size_t>(p)]).output();
    in.push_back({top, labels, rig.tensor({kTokens, output.vocabulary()})});
    output.scores(rig.ctx, statistics.narrow(0, p, 1).reshape({4 * kTokens}), in.back());
  }
  for (int p = 0; p < kParts; ++p) {
    OutputMatrix& output = head_of(*parts[static_cast<std::size_t>(p)]).output();
    const auto& mine = in[static_cast<std::size_t>(p)];
    output.scores_backward(rig.ctx, share, p == 0 ? split_sums : Tensor{}, mine, statistics, {scale, false});
    offramp::add(rig.ctx, d_top, share);
    output.scores_weight_gradient(rig.ctx, mine);
  }
  head_of(*parts[0]).untap(rig.ctx, d_split, d_top, slot);
  EXPECT_TRUE(slot.empty());

  for (int p = 0; p < kParts; ++p) head_of(*parts[static_cast<std::size_t>(p)]).visit([&](Parameter& parameter) { add(got, parameter); });
  for (std::int64_t i = 0; i < kLossSums; ++i) EXPECT_NEAR(split_sums.as<double>()[i], sums.as<double>()[i], 1e-6 * sums.as<double>()[0]);
  expect_close(values(d_split), values(d_whole));
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [name, elements] : expected) {
    ASSERT_EQ(got.at(name).size(), elements.size()) << name;
    for (const auto& [at, value] : elements) ASSERT_NEAR(got.at(name).at(at), value, 4e-6) << name << " " << at;
  }
}

}  // namespace
}  // namespace offramp::testing
