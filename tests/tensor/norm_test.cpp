// RMSNorm, LayerNorm, their backwards, and the sum over rows.
#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;
constexpr float kEps = 1e-5f;

struct Norm {
  bool centred;  // LayerNorm, which takes the mean away
  std::int64_t n, h;
  std::string name(const char* what) const { return fmt::format("{}{} n={} h={}", centred ? "layer_norm" : "rms_norm", what, n, h); }
};

const std::vector<std::string> kWorking = {"y", "x", "gain", "bias", "dx", "dy", "d_residual"};  // the rest is f32 always

Case norm_case(Norm s) {
  Case c{.name = s.name(""),
         .operands = {output("y", {s.n, s.h}), output("rstd", {s.n}), input("x", {s.n, s.h}), input("gain", {s.h})},
         .run =
             [=](Context& context, const Tensors& t) {
               if (!s.centred) return rms_norm(context, t["y"], t["rstd"], t["x"], t["gain"], kEps);
               layer_norm(context, t["y"], {.mean = t["mean"], .rstd = t["rstd"]}, t["x"], t["gain"], t["bias"], kEps);
             },
         .reference =
             [=](Values& v) {
               for (std::int64_t i = 0; i < s.n; ++i) {
                 const auto row = static_cast<Index>(i * s.h), width = static_cast<Index>(s.h);
                 double mean = 0, squares = 0;
                 for (Index j = 0; s.centred && j < width; ++j) mean += v["x"][row + j] / static_cast<double>(s.h);
                 for (Index j = 0; j < width; ++j) squares += std::pow(v["x"][row + j] - mean, 2);
                 const double rstd = 1 / std::sqrt(squares / static_cast<double>(s.h) + double{kEps});
                 v["rstd"][static_cast<Index>(i)] = rstd;
                 if (s.centred) v["mean"][static_cast<Index>(i)] = mean;
                 for (Index j = 0; j < width; ++j) {
                   v["y"][row + j] = (v["x"][row + j] - mean) * rstd * v["gain"][j] + (v.count("bias") ? v["bias"][j] : 0);
                 }
               }
             }};
  // A mean of few numbers that cancel: it errs in units of the greatest of them.
  if (s.centred) c.operands.insert(c.operands.end(), {output("mean", {s.n}, 32), input("bias", {s.h})});
  return c;
}

// The plain definition, for xhat = (x - mean) rstd and q = gain dy: dx = rstd (q - xhat mean(q xhat) - mean(q)), to which the
// residual stream's gradient is added. RMSNorm has no mean(q).
Case norm_backward_case(Norm s) {
  Case c{.name = s.name("_backward"),
         .operands = {output("dx", {s.n, s.h}, 16), updated("dgain", {s.h}, 64), input("dy", {s.n, s.h}), input("d_residual", {s.n, s.h}),
                      input("x", {s.n, s.h}), input("rstd", {s.n}, [](std::int64_t i) { return 0.5 + 0.1 * static_cast<double>(i % 7); }),
                      input("gain", {s.h})},
         .run =
             [=](Context& context, const Tensors& t) {
               if (!s.centred)
                 return rms_norm_backward(context, t["dx"], t["dgain"], t["dy"], t["d_residual"], t["x"], t["rstd"], t["gain"]);
               layer_norm_backward(context, t["dx"], {.gain = t["dgain"], .bias = t["dbias"]}, t["dy"], t["d_residual"], t["x"],
                                   {.mean = t["mean"], .rstd = t["rstd"]}, t["gain"]);
             },
         .reference =
             [=](Values& v) {
               for (std::int64_t i = 0; i < s.n; ++i) {
                 const auto row = static_cast<Index>(i * s.h), width = static_cast<Index>(s.h);
                 const double rstd = v["rstd"][static_cast<Index>(i)], mean = s.centred ? v["mean"][static_cast<Index>(i)] : 0;
                 double dot = 0, shift = 0;
                 for (Index j = 0; j < width; ++j) {
                   const double q = v["dy"][row + j] * v["gain"][j] / static_cast<double>(s.h);
                   dot += q * (v["x"][row + j] - mean) * rstd;
                   shift += s.centred ? q : 0;
                 }
                 for (Index j = 0; j < width; ++j) {
                   const double xhat = (v["x"][row + j] - mean) * rstd, dy = v["dy"][row + j];
                   v["dgain"][j] += dy * xhat;
                   if (s.centred) v["dbias"][j] += dy;
                   v["dx"][row + j] = v["d_residual"][row + j] + rstd * (v["gain"][j] * dy - xhat * dot - shift);
                 }
               }
             },
         .aliases = {{"dx", "d_residual"}, {"dx", "dy"}}};
  if (s.centred) c.operands.insert(c.operands.end(), {updated("dbias", {s.h}, 64), input("mean", {s.n})});
  return c;
}

TEST(Norm, Forward) {
  for (const bool centred : {false, true}) {
    for (const auto& [n, h] : {std::pair{1, 1}, {3, 5}, {17, 65}, {512, 256}}) {
      check_case(norm_case({centred, n, h}));
      check_case(in_bf16(norm_case({centred, n, h}), kWorking));
    }
  }
}

TEST(Norm, Backward) {
  for (const bool centred : {false, true}) {
    for (const auto& [n, h] : {std::pair{1, 1}, {3, 5}, {17, 65}, {150, 255}}) {
      check_case(norm_backward_case({centred, n, h}));
      check_case(in_bf16(norm_backward_case({centred, n, h}), kWorking));
    }
  }
}

TEST(Norm, GradientAgreesWithFiniteDifferences) {
  for (const bool centred : {false, true}) {
    for (const auto& [n, h] : {std::pair{1, 1}, {2, 5}, {3, 17}})
      check_gradient(norm_case({centred, n, h}), norm_backward_case({centred, n, h}));
  }
}

TEST(Norm, LayerNormWithoutABias) {
  Case c = norm_case({true, 5, 33});
  c.operands.pop_back();
  check_case(c);
}

// The variance of the differences, not the difference of two large numbers.
TEST(Norm, AnOffsetCancels) {
  Case c = norm_case({true, 1, 256});
  c.operands[2].fill = [](std::int64_t i) { return 1e4 + static_cast<double>(i % 2); };
  EXPECT_NEAR(run_case(c).values["rstd"][0], 1 / std::sqrt(0.25 + double{kEps}), 1e-6);
}

TEST(Norm, RefusesMixedTypes) { EXPECT_THROW(run_case(in_bf16(norm_case({false, 3, 5}), {"x", "y"})), Error) << "gain is f32"; }

Case column_sums_case(std::int64_t n, std::int64_t o, std::int64_t wider_by) {
  return {.name = fmt::format("column_sums n={} o={} wider by {}", n, o, wider_by),
          .operands = {updated("sum", {o}, 64), wider(input("x", {n, o}), wider_by)},
          .run = [](Context& c, const Tensors& t) { column_sums(c, t["sum"], t["x"]); },
          .reference =
              [=](Values& v) {
                for (Index i = 0; i < v["x"].size(); ++i) v["sum"][i % static_cast<Index>(o)] += v["x"][i];
              }};
}

TEST(Norm, ColumnSums) {
  for (const auto& [n, o] : {std::pair{1, 1}, {3, 5}, {64, 33}, {65, 33}, {150, 255}}) {
    for (const std::int64_t wider_by : {0, 3}) {
      check_case(column_sums_case(n, o, wider_by));
      check_case(in_bf16(column_sums_case(n, o, wider_by), {"x"}));
    }
  }
}

}  // namespace
}  // namespace offramp::testing
