// A trained model as Hugging Face's transformers reads it, with the exits in files beside it:
//
//   config.json, model.safetensors, tokenizer files | exits.json, exits.safetensors
//
// The directory appears whole or not at all:
//
//   check_export_target("runs/quickstart/hf");            // at the start of a job: refuses a directory with other files in it
//   ExportDirectory out("runs/quickstart/hf");            // a new directory beside it
//   write_config_json(out.path(), model, tokenizer_end);
//   write_exits_json(out.path(), exits);                  // also without exits
//   const auto entries = backbone_entries(model);
//   SafetensorsWriter backbone(out.path() + "/model.safetensors", file_entries(entries));  ...  backbone.finish();
//   out.commit();                                         // under its own name; an earlier export is replaced
//
// One rank writes. Every failure is an Error(Exit::checkpoint).
#pragma once
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/export_entry.h"
#include "models/config.h"

namespace offramp {

// LlamaForCausalLM or GPT2LMHeadModel, readable by versions 4 and 5 of transformers. end_token: the tokenizer's end of text; -1: none.
// type: of the numbers in model.safetensors.
void write_config_json(const std::string& directory, const ModelConfig& model, std::int64_t end_token, FloatType type = FloatType::f32);

// {"exits": [{"layer": 2, "head": "norm", "output": "own", "norm": "own"}, ...]} in layer order. (A bare head has no norm, whatever
// the last key says.)
void write_exits_json(const std::string& directory, std::span<const ExitSpec> exits);

// The tensors of model.safetensors and exits.safetensors, in the order in which transformers lists a model's. What an exit shares
// with the model is not repeated: a shared output or norm, and the norm that an mlp head has in common with its layer. An exit's
// tensors look as the layers' do, GPT-2's transposed and fused.
std::vector<ExportEntry> backbone_entries(const ModelConfig& model);
std::vector<ExportEntry> exit_entries(const ModelConfig& model, std::span<const ExitSpec> exits);

// What transformers keeps of a tokenizer, and how it wants text to be made; an export may hold these.
inline constexpr std::array<std::string_view, 9> kTokenizerFiles = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "merges.txt",      "chat_template.jinja",   "generation_config.json"};

// Refuses a path that cannot become an export: a file, a directory that holds anything but an earlier export of ours (which has
// an exits.json), or a place where no directory can be made. Makes the directories above it.
void check_export_target(const std::string& directory);

class ExportDirectory {
 public:
  explicit ExportDirectory(const std::string& directory);
  ~ExportDirectory();  // without commit() nothing is left
  ExportDirectory(const ExportDirectory&) = delete;
  ExportDirectory& operator=(const ExportDirectory&) = delete;

  const std::string& path() const { return temporary_; }  // write the files here
  // Syncs everything and gives the directory its name. Where that is refused, what was written stays, and the error says where.
  void commit();

 private:
  std::string directory_, temporary_;
  bool keep_ = false;
};

}  // namespace offramp
