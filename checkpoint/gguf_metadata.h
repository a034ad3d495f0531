// What the keys of a GGUF file say of the model and of its tokenizer; GgufSource puts it together.
#pragma once
#include "checkpoint/gguf_file.h"
#include "data/gguf_vocabulary.h"
#include "models/config.h"

namespace offramp {

// Without rope_scaling, which is in a tensor.
ModelConfig gguf_model(const GgufFile& file);
// Empty where the file has no tokenizer.
GgufVocabulary gguf_vocabulary(const GgufFile& file);

// Keys of ours, which llama.cpp passes over: the settings that rope_freqs.weight was made with.
constexpr const char* kGgufRopeFactor = "offramp.rope_scaling.factor";
constexpr const char* kGgufRopeLow = "offramp.rope_scaling.low_freq_factor";
constexpr const char* kGgufRopeHigh = "offramp.rope_scaling.high_freq_factor";
constexpr const char* kGgufRopeOriginal = "offramp.rope_scaling.original_max_position_embeddings";

}  // namespace offramp
