// DraftSource: an exit and the layers below it as a model of its own, which anything that loads the architecture can run: as a draft
// for speculative decoding, or as a smaller model.
//
//   DraftSource draft(source, config, exits, 6);                // of the exit at layer 6
//   export_source(draft, draft.config(), options);           // without exits
//
// Layers 1..E with, for each kind of head:
//   norm       the exit's norm and output matrix for the final ones
//   mlp        its MLP in place of layer E's own
//   block      its block as one more layer
//   attention  one more layer, whose MLP adds nothing: its down projection is 0
// A bare head has no such form, as these architectures always norm: it is refused, as an exit is that does not exist
// (Error(Exit::checkpoint)).
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/config.h"

namespace offramp {

class DraftSource : public TensorSource {
 public:
  // `source` must outlive the draft; config and exits are those of the whole model.
  DraftSource(TensorSource& source, const ModelConfig& config, std::span<const ExitSpec> exits, int layer);

  const ModelConfig& config() const { return config_; }
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;

 private:
  // A tensor of the source, or one value everywhere.
  struct Origin {
    std::string name;
    float value = 0;
  };
  Origin origin_of(const std::string& name, const ModelConfig& whole, const ExitSpec& exit) const;

  TensorSource& source_;
  ModelConfig config_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, Origin> origins_;
};

}  // namespace offramp
