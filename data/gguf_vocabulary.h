// GgufVocabulary: a tokenizer as GGUF files keep it, under tokenizer.ggml.*. model "llama" is a SentencePiece BPE with scores, "gpt2"
// a byte-level BPE with merges ("a b") whose texts are cut first as `pre` says.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace offramp {

struct GgufVocabulary {
  enum Type : std::int32_t { normal = 1, unknown_token = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

  std::string model, pre;
  std::vector<std::string> tokens, merges;  // tokens by id
  std::vector<std::int32_t> types;          // of Type, by id
  std::vector<float> scores;                // by id; of "llama" only
  int bos = -1, eos = -1, unknown = -1, padding = -1;  // -1: none
  bool add_bos = false, add_eos = false;    // around a text
  bool add_space_prefix = true;             // of "llama": a space in front of a text
  std::string chat_template;
};

}  // namespace offramp
