// A model from any TensorSource as Hugging Face's files, without ranks: a checkpoint, a draft of it, another format read.
//
//   HuggingFaceExport options{.directory = "out", .exits = source.exits(), .type = FloatType::bf16, .max_shard_bytes = 5'000'000'000};
//   options.write_tokenizer = [](const std::string& directory) { copy_tokenizer_files("hf", directory); };
//   export_source(source, source.config(), options);
//
// The directory appears whole or not at all (ExportDirectory). Memory does not grow with the model.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/export_entry.h"
#include "checkpoint/float_type.h"
#include "checkpoint/tensor_source.h"
#include "models/config.h"

namespace offramp {

struct HuggingFaceExport {
  std::string directory;
  std::vector<ExitSpec> exits;
  std::int64_t end_token = -1;                                        // of the tokenizer; -1: none
  std::function<void(const std::string& directory)> write_tokenizer;  // writes its files there; none: the model has none
  FloatType type = FloatType::f32;
  std::uint64_t max_shard_bytes = 0;  // model.safetensors is cut into files of at most so many bytes of data; 0: one file
};
void export_source(TensorSource& source, const ModelConfig& model, const HuggingFaceExport& options);

// One file of a model. `beat` hears of progress.
void write_entries(
    const std::string& path, std::span<const ExportEntry> entries, TensorSource& source, FloatType type,
    const std::function<void()>& beat = [] {});

// Copies what a directory has of a tokenizer's files (and generation_config.json); how many there were.
int copy_tokenizer_files(const std::string& from, const std::string& to);

}  // namespace offramp
