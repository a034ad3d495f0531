// HuggingFaceSource: a model in Hugging Face's files as a TensorSource: what transformers saves, or an export of ours with its exits.
//
//   HuggingFaceSource source("SmolLM2-135M");         // config.json, model.safetensors or shards with an index, exits.json
//   source.config(), source.exits();                  // the model's, and none of a stock one
//   source.read("model.norm.weight", 0, 576, out);
//
// Llama and GPT-2 families; names with or without the base model's prefix; a tied lm_head.weight may be repeated. Opening checks
// every name and shape against the model's; nothing of the data is read but what is asked for. Throws Error(Exit::checkpoint) with
// file and tensor, and the nearest name where one is missing or unexpected.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/export_entry.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/shards.h"
#include "checkpoint/tensor_source.h"

namespace offramp {

class HuggingFaceSource : public TensorSource {
 public:
  explicit HuggingFaceSource(const std::string& directory);

  const ModelConfig& config() const { return config_.model; }
  std::int64_t end_token() const { return config_.end_token; }  // -1: none
  const std::vector<ExitSpec>& exits() const { return exits_; }
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override;

 private:
  // Where a logical tensor is: the p-th of the parts of what the file has.
  struct Place {
    Shards::Found found;
    bool transposed = false;
    std::int64_t part = 0, parts = 1;
    Shape shape;  // the logical tensor's
  };
  void add(const Shards& shards, const std::vector<ExportEntry>& table, const std::string& base_prefix);
  void check_tied_output() const;
  const Place& place_of(const std::string& name) const;
  void read_transposed(const Place& place, const Box& box, float* out) const;

  HuggingFaceConfig config_;
  std::vector<ExitSpec> exits_;
  std::unique_ptr<Shards> backbone_, of_exits_;  // places point into them
  std::vector<TensorEntry> entries_;
  std::map<std::string, Place> places_;
};

// exits.json of a directory, checked against the model; none where there is no such file.
std::vector<ExitSpec> read_exits_json(const std::string& directory, const ModelConfig& model);

}  // namespace offramp
