// Finite differences of every unit and every head kind.
#include <cmath>

#include "rig.h"
#include "tensor/random.h"

namespace offramp::testing {
namespace {

// A directional derivative from five points, L(-2t) .. L(2t). Its error is t^4 L^(5) / 30, and rounding: a loss of some tens, made of
// fp32 numbers and summed in double, is wrong by about 1e-6, which divided by t is 3e-4. Gradients here are of length 1 to 100.
constexpr double kStep = 4e-3, kTolerance = 1e-3;
constexpr int kDirections = 3;

double derivative(const std::function<double()>& loss, Tensor at, const std::vector<float>& direction) {
  const std::vector<float> original = values(at);
  float* p = at.as<float>();
  const auto moved = [&](double t) {
    for (std::size_t i = 0; i < original.size(); ++i) p[i] = static_cast<float>(original[i] + t * direction[i]);
    return loss();
  };
  const double slope = (8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) / (12 * kStep);
  std::copy(original.begin(), original.end(), p);
  return slope;
}

// With normal numbers for a direction v, <g, v> has the deviation |g|: the error is measured in that.
void check(const std::string& what, const std::function<double()>& loss, Tensor at, const std::vector<float>& gradient) {
  double squares = 0;
  for (const float g : gradient) squares += static_cast<double>(g) * static_cast<double>(g);
  ASSERT_GT(squares, 1e-4) << what << ": no gradient to speak of";
  for (int d = 0; d < kDirections; ++d) {
    std::vector<float> direction(gradient.size());
    double expected = 0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      direction[i] = normal({.seed = static_cast<std::uint64_t>(d), .id = hash(what)}, i);
      expected += static_cast<double>(gradient[i]) * static_cast<double>(direction[i]);
    }
    EXPECT_NEAR(derivative(loss, at, direction), expected, kTolerance * std::sqrt(squares)) << what << ", direction " << d;
  }
}

void check_all(Rig& rig, const Subject& s) {
  SCOPED_TRACE(s.name);
  const Tensor x = s.input(rig), dx = x.dtype == DType::f32 ? rig.like(x) : Tensor{};
  zero_gradients(rig, s.visit);
  s.gradient(rig, dx, x);
  const auto loss = [&] { return s.loss(rig, x); };
  if (dx.defined()) check("x", loss, x, values(dx));
  s.visit([&](Parameter& p) { check(p.name(), loss, p.value, values(p.grad)); });
}

TEST(Gradient, EveryUnitAndHead) {
  Rig rig(Backing::host);
  for (const Subject& s : subjects(rig)) check_all(rig, s);
}

TEST(Gradient, Accumulates) {
  Rig rig(Backing::host);
  for (const Subject& s : subjects(rig)) {
    SCOPED_TRACE(s.name);
    const Tensor x = s.input(rig);
    zero_gradients(rig, s.visit);
    s.gradient(rig, {}, x);
    const auto once = gradients(s.visit);
    s.gradient(rig, {}, x);
    const auto twice = gradients(s.visit);
    for (std::size_t p = 0; p < once.size(); ++p) {
      float largest = 0;
      for (const float g : once[p]) largest = std::max(largest, std::abs(g));
      // The second pass adds its terms to a sum that stands: each addition rounds by 2^-24 of at most twice the largest.
      for (std::size_t i = 0; i < once[p].size(); ++i) ASSERT_NEAR(twice[p][i], 2 * once[p][i], 64 * 0x1p-24 * largest) << p << " " << i;
    }
  }
}

// One token's terms of sums, all other tokens masked.
std::array<double, 2> token_sums(Rig& rig, Head& head, const HeadIn& in, const Sequences& sequences, std::int64_t token) {
  const std::size_t mark = rig.memory.mark();
  HeadIn one = in;
  one.labels = rig.integers(in.labels.shape, [&](std::int64_t i) { return i == token ? in.labels.as<std::int32_t>()[i] : -1; });
  const Tensor sums = rig.tensor({kLossSums}, DType::f64);
  fill_zero(rig.ctx, sums);
  head.exit(rig.ctx, {}, sums, one, sequences, false);
  const std::array<double, 2> result{sums.as<double>()[0], sums.as<double>()[1]};
  rig.memory.release(mark);
  return result;
}

// The gradient of the sum of c_i CE_i with every c_i frozen where it stood: c is detached.
void check_confidence(Rig& rig, Head& head, const HeadIn& in) {
  SCOPED_TRACE(name_of(head.spec().head));
  const Sequences sequences{.length = kSequence};
  const Tensor dx = rig.like(in.x), sums = rig.tensor({kLossSums}, DType::f64);
  const auto visit = [&](const Visitor& visitor) { head.visit(visitor); };
  zero_gradients(rig, visit);
  fill_zero(rig.ctx, sums);
  head.exit(rig.ctx, dx, sums, in, sequences, true);
  std::vector<double> confidence(kTokens, 0.0);
  for (std::int64_t i = 0; i < kTokens; ++i) {
    if (in.labels.as<std::int32_t>()[i] < 0) continue;
    const auto [plain, weighted] = token_sums(rig, head, in, sequences, i);
    confidence[static_cast<std::size_t>(i)] = weighted / plain;
    ASSERT_LT(weighted, plain);  // a confidence of 1 would prove nothing
  }
  const auto frozen = [&] {
    double loss = 0;
    for (std::int64_t i = 0; i < kTokens; ++i) loss += confidence[static_cast<std::size_t>(i)] * token_sums(rig, head, in, sequences, i)[0];
    return loss;
  };
  EXPECT_NEAR(frozen(), sums.as<double>()[1], 1e-5 * frozen());
  check("x", frozen, in.x, values(dx));
  visit([&](Parameter& p) { check(p.name(), frozen, p.value, values(p.grad)); });
}

TEST(Gradient, ConfidenceWeightsAreConstants) {
  Rig rig(Backing::host);
  const Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i == 3 ? -1 : i * 7 % 37; });
  const Tensor scale = rig.tensor({1});
  *scale.as<float>() = 1;
  std::vector<ExitSpec> exits = every_exit_towards(Target::labels);  // whose loss without weights the head tells besides
  for (ExitSpec& exit : exits) exit.confidence_weights = true;
  const auto model = make_model(rig, tiny_config(), exits);
  const HeadIn in{.x = rig.numbers("x", {kTokens, 16}), .labels = labels, .scale = scale};
  for (int number = 0; number + 1 < std::ssize(model->heads); ++number)
    check_confidence(rig, model->heads[static_cast<std::size_t>(number)], in);
}

}  // namespace
}  // namespace offramp::testing
