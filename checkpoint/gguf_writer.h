// A Llama as a GGUF file, version 3, as llama.cpp loads it: norms in f32, matrices in the type asked for, queries and keys with their
// rotating pairs side by side, the tokenizer beside them.
//
//   write_gguf("model.gguf", source.config(), source, read_gguf_vocabulary("hf"), FloatType::f16);
//
// Exits have no place there: a DraftSource (checkpoint/draft_source.h) makes a model of one. The file appears whole or not at all.
#pragma once
#include <string>

#include "checkpoint/float_type.h"
#include "checkpoint/tensor_source.h"
#include "data/gguf_vocabulary.h"
#include "models/config.h"

namespace offramp {

// vocabulary: without tokens, the file gets none; of fewer than the model's, the rest is filled with unused ones. Throws
// Error(Exit::checkpoint) for a model that is no Llama, for a larger vocabulary, and for what cannot be written.
void write_gguf(const std::string& path, const ModelConfig& model, TensorSource& source, const GgufVocabulary& vocabulary,
                FloatType type = FloatType::f32);

}  // namespace offramp
