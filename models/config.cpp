// What follows from the values of a configuration alone.
#include "models/config.h"

#include "models/model.h"

namespace offramp {

const char* name_of(HeadKind kind) {
  switch (kind) {
    case HeadKind::bare:
      return "bare";
    case HeadKind::norm:
      return "norm";
    case HeadKind::mlp:
      return "mlp";
    case HeadKind::block:
      return "block";
    case HeadKind::attention:
      return "attention";
  }
  return "unknown";
}

RopeFrequencies rope_frequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (!scaling.llama3()) return {.theta = config.rope_theta};
  return {.theta = config.rope_theta,
          .factor = scaling.factor,
          .low = scaling.low_freq_factor,
          .high = scaling.high_freq_factor,
          .original_positions = static_cast<double>(scaling.original_max_position_embeddings)};
}

}  // namespace offramp
