// Tokenizers as Hugging Face's libraries read them. A directory gets
//   tokenizer.model          the SentencePiece file itself (read by llama.cpp and older transformers)
//   tokenizer.json           the same vocabulary and merges for the tokenizers library
//   tokenizer_config.json, special_tokens_map.json
// and AutoTokenizer.from_pretrained(directory) then gives the ids that our Tokenizer gives, without begin and end tokens. A
// tokenizer.json is copied as it is, with a tokenizer_config.json (tokenizer_settings.h) beside it.
//
//   write_hugging_face_tokenizer("runs/data/docs_tokenizer.model", "runs/quickstart/hf");
#pragma once
#include <filesystem>
#include <string>

namespace offramp {

// model_path: what load_tokenizer() takes; of SentencePiece models BPE alone. fail(Exit::data) for anything else.
void write_hugging_face_tokenizer(const std::string& model_path, const std::filesystem::path& directory);

// The byte tokenizer as a tokenizer.json: byte pieces 0 to 255, "</s>" 256, no merges.
std::string byte_tokenizer_json();

}  // namespace offramp
