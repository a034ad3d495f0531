// config.json, read: which model of ours it describes.
//
//   const HuggingFaceConfig config = read_config_json("SmolLM2-135M");
//
// The rule: a key is either understood, or known to change nothing that the model computes (what generation, training loops and
// tools keep there), or it refuses the whole file, unless its value says that it is off (null, false, {} or []). So a file of a later
// transformers with a new way to compute something is never read as the model without it. Every refusal is an
// Error(Exit::checkpoint) that names file and key.
#pragma once
#include <cstdint>
#include <string>

#include "models/config.h"

namespace offramp {

struct HuggingFaceConfig {
  ModelConfig model;
  std::int64_t end_token = -1;  // the first of eos_token_id; -1: none
};
HuggingFaceConfig read_config_json(const std::string& directory);

}  // namespace offramp
