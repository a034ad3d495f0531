// The model that a job starts from, as model.from names it: a checkpoint, a directory of them, or a Hugging Face directory (an export of
// ours with its exits among them).
//
//   BaseModel base("SmolLM2-135M");                 // reads its description; of a directory of checkpoints the newest that can be read
//   adopt_base(config, at, unknown, problems);      // while a configuration is read
//
// Throws Error(Exit::checkpoint) where there is no model, or none that can be read.
#pragma once
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/huggingface_source.h"
#include "trainer/check_config.h"
#include "trainer/config.h"

namespace offramp {

class BaseModel {
 public:
  explicit BaseModel(const std::string& path);

  const std::string& directory() const { return directory_; }  // of the step, or as it was named
  const ModelConfig& model() const { return model_; }
  bool is(const ModelConfig& other) const;  // that model, but for what may differ
  const std::vector<ExitSpec>& exits() const { return exits_; }
  std::int64_t end_token() const { return end_token_; }  // -1: none
  std::string identity() const;                          // another one where any of its files is another
  // Its own files, one of both; what a checkpoint of exits stands on is elsewhere (BaseWeights, trainer/frozen_base.h).
  Checkpoint* checkpoint() const { return checkpoint_.get(); }
  HuggingFaceSource* hugging_face() const { return hugging_face_.get(); }

 private:
  std::string directory_;
  ModelConfig model_;
  std::vector<ExitSpec> exits_;
  std::int64_t end_token_ = -1;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<HuggingFaceSource> hugging_face_;
};

bool is_hugging_face(const std::string& directory);

// Completes config.model with what model.from's model is. What the configuration says besides must be the same, of the model and of the
// exits that come from it.
void adopt_base(Config& config, const Locations& at, const std::set<std::string>& unknown, Problems& problems);

// Of a model, what leaves its tensors and their meaning alone: a job may have it otherwise than the weights that it starts from.
bool may_differ_from_base(std::string_view key);

}  // namespace offramp
