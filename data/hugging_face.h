// Tokenizers as Hugging Face's libraries read them. A directory gets
//   tokenizer.model          the SentencePiece file itself (read by llama.cpp and older transformers)
//   tokenizer.json           the same vocabulary and merges for the tokenizers library
//   tokenizer_config.json, special_tokens_map.json
// and AutoTokenizer.from_pretrained(directory) then gives the ids that our Tokenizer gives, without begin and end tokens.
//
//   write_hugging_face_tokenizer("runs/data/docs_tokenizer.model", "runs/quickstart/hf");
#pragma once
#include <filesystem>
#include <string>

namespace offramp {

// model_path: a SentencePiece BPE model, or the byte tokenizer's file. fail(Exit::data) when it is neither.
void write_hugging_face_tokenizer(const std::string& model_path, const std::filesystem::path& directory);

// The byte tokenizer as a tokenizer.json: byte pieces 0 to 255, "</s>" 256, no merges.
std::string byte_tokenizer_json();

}  // namespace offramp
