// RMSNorm and its backward.
#include "registry.h"

namespace offramp::testing {
namespace {

constexpr float kEps = 1e-5f;

Case rms_norm_case(std::int64_t n, std::int64_t h) {
  return {.name = fmt::format("rms_norm n={} h={}", n, h),
          .operands = {required(output("y", {n, h})), output("rstd", {n}), input("x", {n, h}), input("gain", {h})},
          .run = [](Context& c, const Tensors& t) { rms_norm(c, t["y"], t["rstd"], t["x"], t["gain"], kEps); },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < n; ++i) {
                  const auto row = static_cast<std::size_t>(i * h), width = static_cast<std::size_t>(h);
                  double squares = 0;
                  for (std::size_t j = 0; j < width; ++j) squares += v["x"][row + j] * v["x"][row + j];
                  const double rstd = 1 / std::sqrt(squares / static_cast<double>(h) + double{kEps});
                  v["rstd"][static_cast<std::size_t>(i)] = rstd;
                  for (std::size_t j = 0; j < width; ++j) v["y"][row + j] = v["x"][row + j] * rstd * v["gain"][j];
                }
              }};
}

// The plain definition: dx = rstd (g dy - x rstd^2 mean(g dy x)), to which the residual stream's gradient is added.
Case rms_norm_backward_case(std::int64_t n, std::int64_t h) {
  return {
      .name = fmt::format("rms_norm_backward n={} h={}", n, h),
      .operands = {output("dx", {n, h}, 16), updated("dgain", {h}, 64), input("dy", {n, h}), input("d_residual", {n, h}),
                   input("x", {n, h}), input("rstd", {n}, [](std::int64_t i) { return 0.5 + 0.1 * static_cast<double>(i % 7); }),
                   input("gain", {h})},
      .run = [](Context& c,
                const Tensors& t) { rms_norm_backward(c, t["dx"], t["dgain"], t["dy"], t["d_residual"], t["x"], t["rstd"], t["gain"]); },
      .reference =
          [=](Values& v) {
            for (std::int64_t i = 0; i < n; ++i) {
              const auto row = static_cast<std::size_t>(i * h), width = static_cast<std::size_t>(h);
              const double rstd = v["rstd"][static_cast<std::size_t>(i)];
              double dot = 0;
              for (std::size_t j = 0; j < width; ++j) dot += v["dy"][row + j] * v["gain"][j] * v["x"][row + j];
              for (std::size_t j = 0; j < width; ++j) {
                const double x = v["x"][row + j], dy = v["dy"][row + j];
                v["dgain"][j] += dy * x * rstd;
                v["dx"][row + j] = v["d_residual"][row + j] + rstd * (v["gain"][j] * dy - x * rstd * rstd * dot / static_cast<double>(h));
              }
            }
          },
      .aliases = {{"dx", "d_residual"}, {"dx", "dy"}}};
}

TEST(Norm, Forward) {
  for (const auto& [n, h] : {std::pair{1, 1}, {3, 5}, {17, 65}, {512, 256}}) check_case(rms_norm_case(n, h));
}

TEST(Norm, Backward) {
  for (const auto& [n, h] : {std::pair{1, 1}, {3, 5}, {17, 65}, {517, 255}}) check_case(rms_norm_backward_case(n, h));
}

TEST(Norm, GradientAgreesWithFiniteDifferences) {
  for (const auto& [n, h] : {std::pair{1, 1}, {2, 5}, {3, 17}}) check_gradient(rms_norm_case(n, h), rms_norm_backward_case(n, h));
}

}  // namespace
}  // namespace offramp::testing
