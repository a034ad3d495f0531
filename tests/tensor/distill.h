// What is asked of softmax_distill().
#pragma once
#include <array>
#include <vector>

namespace offramp::testing {

enum class Towards { labels, argmax, distribution };
inline constexpr std::array kTowards{Towards::labels, Towards::argmax, Towards::distribution};

struct Wanted {
  Towards towards;
  bool confidence;
  float temperature = 1, labels = 0;
};
inline constexpr std::array kTemperatures{0.5f, 3.0f};  // besides 1
inline std::vector<Wanted> everything_wanted() {
  std::vector<Wanted> all;
  for (const bool confidence : {false, true}) {
    for (const Towards towards : kTowards) all.push_back({towards, confidence});
    for (const float temperature : kTemperatures) all.push_back({Towards::distribution, confidence, temperature});
    for (const float temperature : {1.0f, 3.0f}) all.push_back({Towards::distribution, confidence, temperature, 0.75f});
  }
  return all;
}

}  // namespace offramp::testing
