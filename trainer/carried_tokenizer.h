// The tokenizer that a job's checkpoints and exports carry: the one beside its data, or else that of the model it started from.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "trainer/config.h"

namespace offramp {

struct CarriedTokenizer {
  std::int64_t end_token = -1;                              // -1: none
  std::function<void(const std::string& directory)> write;  // its files, as Hugging Face's libraries read them; none: there is no tokenizer
};
CarriedTokenizer carried_tokenizer(const Config& config);

}  // namespace offramp
