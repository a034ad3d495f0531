// offramp import hf | gguf and export hf | gguf | draft: between checkpoints and the files of others. One process, no ranks.
#pragma once
#include <string>

namespace offramp {

struct ConvertArguments {
  enum class Verb { import_hf, import_gguf, export_hf, export_gguf, export_draft } verb = Verb::import_hf;
  std::string from, to;
  std::string dtype = "fp32";  // of an export: fp32 | bf16 | fp16
  std::string max_shard;       // "5GB"; empty: one file
  std::string subnet;          // of an export: {"num_hidden_layers": 4}; empty: the whole
  int exit = 0;                // the layer whose exit is exported; of a gguf 0: the whole model
};

// What to print. Throws Error(Exit::checkpoint) for what cannot be read, written or expressed in the other form.
std::string run_convert_command(const ConvertArguments& arguments);

}  // namespace offramp
