// How tests compare a model's tensors that were computed in different orders: by their norms, tensor by tensor.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace offramp::testing {

using ByName = std::map<std::string, std::vector<float>>;  // logical tensors; NaN: elements that somebody else has

inline double norm(const std::vector<float>& values) {
  double squares = 0;
  for (const float v : values) squares += std::isnan(v) ? 0 : std::pow(static_cast<double>(v), 2);
  return std::sqrt(squares);
}

// The tensor whose gradient says how large another's rounding may be: its own, but for one. GPT-2's biases of keys add the same to every
// score of a row, so their gradient is 0, and what is rounded there is of the size of the values' gradient.
inline std::string measured_by(const std::string& name) {
  const std::size_t at = name.find("k_proj.bias");
  return at == std::string::npos ? name : name.substr(0, at) + "v_proj.bias";
}

// Every tensor of `tensors` against the expected ones, of which it may be a part.
inline void expect_close(const ByName& tensors, const ByName& expected, double tolerance, const std::string& what) {
  for (const auto& [name, values] : tensors) {
    std::vector<float> difference = expected.at(name);
    ASSERT_EQ(values.size(), difference.size()) << what << ": " << name;
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= values[i];
    const double size = norm(expected.at(measured_by(name)));
    EXPECT_GT(size, 0) << what << ": " << name << " has no numbers";
    EXPECT_LE(norm(difference), tolerance * size) << what << ": " << name << ", whose size is " << size;
  }
}

}  // namespace offramp::testing
