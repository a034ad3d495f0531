// DraftSource: an exit and the layers below it as a model of its own, which anything that loads the architecture can run: as a draft
// for speculative decoding, or as a smaller model.
//
//   DraftSource draft(source, config, exits, 6);                // of the exit at layer 6
//   export_source(draft, draft.config(), options);           // without exits
//   DraftSource shallow(source, config, exits, 6, DraftSource::Exits::below);   // with those that the layers below have
//
// Layers 1..E with, for each kind of head:
//   norm       the exit's norm and output matrix for the final ones
//   mlp        its MLP in place of layer E's own
//   block      its block as one more layer
//   attention  one more layer, whose MLP adds nothing: its down projection is 0
// A bare head has no such form, as these architectures always norm: it is refused, as an exit is that does not exist
// (Error(Exit::checkpoint)). An exit below that shares the whole's final norm or output has it as its own, where the draft's is another.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/config.h"

namespace offramp {

// The draft's sizes: fewer layers, and one matrix for embedding and output where the exit shares a tied one.
ModelConfig draft_config(ModelConfig config, std::span<const ExitSpec> exits, int layer);

class DraftSource : public TensorSource {
 public:
  enum class Exits : std::uint8_t { none, below };
  // `source` must outlive the draft; config and exits are those of the whole model.
  DraftSource(TensorSource& source, const ModelConfig& config, std::span<const ExitSpec> exits, int layer, Exits kept = Exits::none);

  const ModelConfig& config() const { return config_; }
  const std::vector<ExitSpec>& exits() const { return exits_; }
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;

 private:
  // A tensor of the source, or one value everywhere.
  struct Origin {
    std::string name;
    float value = 0;
  };
  void keep_below(std::span<const ExitSpec> exits, const ExitSpec& exit, const ModelConfig& whole);
  void take(const TensorEntry& entry, const Origin& origin);
  Origin origin_of(const std::string& name, const ModelConfig& whole, const ExitSpec& exit) const;

  TensorSource& source_;
  ModelConfig config_;
  std::vector<ExitSpec> exits_;
  std::map<std::string, Shape> there_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, Origin> origins_;
};

}  // namespace offramp
