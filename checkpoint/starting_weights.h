// StartingWeights: what a model with these exits begins with, of a base that may lack some of them: the base's backbone, its exits where
// the model has them as they are (ExitInit::base), and copies where an exit begins as one. Exits that begin at random have no tensor here.
//
//   StartingWeights weights(base, config, exits);
//   load_weights(machine, weights, "SmolLM2-135M", weights.random());
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/config.h"

namespace offramp {

class StartingWeights : public TensorSource {
 public:
  // `base` must outlive this. Throws Error(Exit::checkpoint) where it lacks what an exit copies.
  StartingWeights(TensorSource& base, const ModelConfig& config, std::span<const ExitSpec> exits);

  const std::vector<std::string>& random() const { return random_; }  // prefixes of the tensors that are not here
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override;

 private:
  const std::string& origin(const std::string& name) const;

  TensorSource& base_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::string> copies_;  // by name, what it is a copy of
  std::vector<std::string> random_;
};

}  // namespace offramp
