// GgufSource: a model of llama.cpp's architecture "llama" as a TensorSource, dequantised, with its configuration and tokenizer.
//
//   GgufSource source("SmolLM2-135M-Instruct.Q4_1.gguf");
//   source.config();                     // tied where the file has no output.weight
//   source.vocabulary().tokens.size();
//
// Keys of the architecture follow config.json's rule (checkpoint/huggingface_config.h): understood, harmless or refused. Factors of
// rotary frequencies (rope_freqs.weight) are understood where they are Llama 3's. Throws Error(Exit::checkpoint) with the file.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "checkpoint/gguf_file.h"
#include "checkpoint/tensor_source.h"
#include "data/gguf_vocabulary.h"
#include "models/config.h"

namespace offramp {

// A tensor of a GGUF file and the logical one that it is.
struct GgufEntry {
  std::string name;     // there
  TensorEntry logical;  // of the same shape
  // Rows of a query or key matrix: each head's pairs (i, i + d/2), which rotate together, stand side by side there. 0: as they are.
  std::int64_t heads = 0;
  std::int64_t row_there(std::int64_t row) const;  // of a row of the logical tensor
};
// All of a Llama's, in the order in which llama.cpp's tools write them.
std::vector<GgufEntry> gguf_entries(const ModelConfig& model);
// What the file's rope_freqs.weight holds: by what each frequency is divided.
std::vector<float> rope_divisors(const ModelConfig& model);

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const std::string& path);

  const ModelConfig& config() const { return config_; }
  const GgufVocabulary& vocabulary() const { return vocabulary_; }  // without tokens: the file has none
  std::vector<TensorEntry> entries() const override;
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;

 private:
  void check_tensors();
  void read_rope_scaling();

  GgufFile file_;
  ModelConfig config_;
  GgufVocabulary vocabulary_;
  std::vector<GgufEntry> entries_;
  std::map<std::string, const GgufEntry*> places_;  // by logical name
};

}  // namespace offramp
