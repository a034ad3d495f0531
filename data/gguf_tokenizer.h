// The tokenizer inside a GGUF file, as the files that Hugging Face's libraries and load_tokenizer() read.
//
//   model gpt2     tokenizer.json and tokenizer_config.json: byte-level BPE. GGUF names its way of cutting text (`pre`) and does not
//                  spell it out; the names of GPT-2, SmolLM, StarCoder, Llama 3, Qwen 2, GPT-4o and their like are known here
//   model llama    tokenizer.model: SentencePiece BPE
//
//   TokenizerFiles files = tokenizer_files(vocabulary, "model.gguf");
//   write_tokenizer_files(files, "model");
//   auto tokenizer = load_tokenizer("model");
#pragma once
#include <filesystem>
#include <string>

#include "data/gguf_vocabulary.h"

namespace offramp {

struct TokenizerFiles {
  std::string name;    // tokenizer.json or tokenizer.model
  std::string bytes;   // of it
  std::string config;  // of tokenizer_config.json; "" beside a tokenizer.model
};

// path: for messages. fail(Exit::checkpoint): another kind of tokenizer, a `pre` that is not known, ids that are none.
TokenizerFiles tokenizer_files(const GgufVocabulary& vocabulary, const std::string& path);

void write_tokenizer_files(const TokenizerFiles& files, const std::filesystem::path& directory);  // fail(Exit::checkpoint)

}  // namespace offramp
