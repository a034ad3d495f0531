// How the files of a feature cache are called. Only trainer/feature_*.cpp include this.
#pragma once
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "models/model.h"

namespace offramp {

constexpr const char *kFeatureDescription = "cache.json", *kFeatureFormat = "offramp features 1", *kFeaturesUnfinished = "building";
constexpr const char *kFeatureSuffix = ".features", *kSumSuffix = ".sums";

// What the description's checksum is of. A path may be of bytes that are no text.
inline std::string summed(const nlohmann::json& description) {
  return description.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// A tap is an attention's output, or a whole layer's, or what the final head reads (models/model.h).
inline std::string feature_name(int tap) {
  if (tap == kFinalTap) return "final-head";
  return fmt::format("layer-{}{}", (tap + 1) / 2, tap % 2 == 1 ? "-attention" : "");
}
inline std::string feature_path(const std::string& directory, std::size_t set, int tap) {
  return fmt::format("{}/set-{}.{}", directory, set, feature_name(tap));
}

}  // namespace offramp
