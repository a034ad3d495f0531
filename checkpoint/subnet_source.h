// SubnetSource: a subnet of a saved model (models/subnet.h) as a model of its own, which anything that loads the architecture can run:
// narrower (SlicedSource), and, where it has fewer layers, with the exit at its depth for the final head (DraftSource). Exits below its
// depth come along.
//
//   SubnetSource small(weights, config, exits, {.num_hidden_layers = 4, .intermediate_size = 172});
//   export_source(small, small.config(), {.directory = "small", .exits = small.exits()});
//
// Throws Error(Exit::checkpoint) where no exit is at that depth, or a bare one, which has no such form.
#pragma once
#include <optional>

#include "checkpoint/draft_source.h"
#include "checkpoint/sliced_source.h"

namespace offramp {

// Sizes of the model that it is.
ModelConfig subnet_config(const ModelConfig& whole, std::span<const ExitSpec> exits, const Subnet& subnet);

class SubnetSource : public TensorSource {
 public:
  // `whole` must outlive this; config and exits are its own.
  SubnetSource(TensorSource& whole, const ModelConfig& config, std::span<const ExitSpec> exits, const Subnet& subnet);

  const ModelConfig& config() const { return config_; }
  const std::vector<ExitSpec>& exits() const { return exits_; }
  std::vector<TensorEntry> entries() const override { return source().entries(); }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override {
    source().read(name, first, count, out);
  }
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override {
    source().read_box(name, shape, box, out);
  }

 private:
  const TensorSource& source() const { return shallow_ ? static_cast<const TensorSource&>(*shallow_) : narrow_; }
  TensorSource& source() { return shallow_ ? static_cast<TensorSource&>(*shallow_) : narrow_; }

  ModelConfig config_;
  std::vector<ExitSpec> exits_;
  SlicedSource narrow_;
  std::optional<DraftSource> shallow_;
};

}  // namespace offramp
