// A model's tensors as initialisation makes them, without ranks: what a frozen backbone that came from nowhere is.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/model.h"

namespace offramp {

class InitialWeights : public TensorSource {
 public:
  InitialWeights(const ModelConfig& model, std::uint64_t seed);  // of a model without exits

  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;

 private:
  std::uint64_t seed_;
  std::map<std::string, Init> inits_;
  std::vector<TensorEntry> entries_;
  std::string name_;  // whose values these are
  std::vector<float> values_;
};

}  // namespace offramp
