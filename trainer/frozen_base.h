// The backbone that a job leaves as it is. Such a job's checkpoints hold its exits alone, and say which base they stand on: its directory
// and its identity, or nothing, where the backbone is as initialisation made it. What is frozen is never written from memory, where it
// may be bf16: files and exports have it from there.
//
//   BaseWeights base("SmolLM2-135M");                             // as model.from names it
//   FrozenBase where = frozen_base(base.model());                  // for Manifest::base
//   auto backbone = backbone_of(where, config.model, seed);        // throws Error(Exit::checkpoint) where the base is not what it was
//   auto whole = weights_of(checkpoint, config.model);             // of any checkpoint: its tensors, and what it stands on
#pragma once
#include <map>
#include <memory>
#include <string>

#include "trainer/base_model.h"

namespace offramp {

using FrozenBase = std::map<std::string, std::string>;  // "directory", "identity"

FrozenBase frozen_base(const BaseModel& base);
bool is_frozen(const Manifest& manifest);  // its job left the backbone as it was
std::unique_ptr<TensorSource> backbone_of(const FrozenBase& base, const ModelConfig& model, std::uint64_t seed);
// The checkpoint must outlive it.
std::unique_ptr<TensorSource> weights_of(Checkpoint& checkpoint, const ModelConfig& model);

// All of a base's tensors, wherever they are.
class BaseWeights : public TensorSource {
 public:
  explicit BaseWeights(const std::string& path);
  const BaseModel& model() const { return model_; }
  std::vector<TensorEntry> entries() const override { return source().entries(); }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override {
    source().read(name, first, count, out);
  }
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override {
    source().read_box(name, shape, box, out);
  }

 private:
  TensorSource& source() const { return of_checkpoint_ ? *of_checkpoint_ : *model_.hugging_face(); }
  BaseModel model_;
  std::unique_ptr<TensorSource> of_checkpoint_;
};

}  // namespace offramp
