// A tokenizer's files as GGUF keeps a tokenizer, so that llama.cpp gives the ids that transformers gives.
//
//   read_gguf_vocabulary("runs/data/docs_tokenizer.model");   // SentencePiece BPE
//   read_gguf_vocabulary("hf");                               // tokenizer.json, tokenizer.model, tokenizer_config.json of a directory
//
// Read are SentencePiece BPE models, and of tokenizer.json byte-level BPE with a pre-tokenizer that llama.cpp knows (GPT-2's, SmolLM's,
// Llama 3's, Qwen 2's), BPE with byte fallback (SentencePiece's in that form) and the byte tokenizer. Anything else is an
// Error(Exit::checkpoint): its ids would differ.
#pragma once
#include <string>

#include "data/gguf_vocabulary.h"

namespace offramp {

GgufVocabulary read_gguf_vocabulary(const std::string& path);

}  // namespace offramp
