#include "trainer/frozen_base.h"

#include <charconv>
#include <filesystem>
#include <set>

#include "checkpoint/initial_weights.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr const char* kDirectory = "directory";
constexpr const char* kIdentity = "identity";

// What the checkpoint has, and of the base what it has not. The base's own exits are another model's.
class TunedWeights : public TensorSource {
 public:
  TunedWeights(Checkpoint& checkpoint, std::unique_ptr<TensorSource> base) : tuned_(checkpoint), base_(std::move(base)) {
    for (const TensorEntry& entry : base_->entries())
      if (!entry.name.starts_with("exits.")) entries_.push_back(entry);
    for (const TensorEntry& entry : tuned_.entries()) {
      mine_.insert(entry.name);
      entries_.push_back(entry);
    }
  }
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override {
    of(name).read(name, first, count, out);
  }
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override {
    of(name).read_box(name, shape, box, out);
  }

 private:
  TensorSource& of(const std::string& name) { return mine_.contains(name) ? static_cast<TensorSource&>(tuned_) : *base_; }

  CheckpointTensors tuned_;
  std::unique_ptr<TensorSource> base_;
  std::set<std::string> mine_;
  std::vector<TensorEntry> entries_;
};

std::uint64_t seed_of(const Manifest& manifest) {
  std::uint64_t seed = 0;
  const auto it = manifest.configuration.find("training.seed");
  if (it != manifest.configuration.end()) std::from_chars(it->second.data(), it->second.data() + it->second.size(), seed);
  return seed;
}

}  // namespace

FrozenBase frozen_base(const BaseModel& base) {
  return {{kDirectory, std::filesystem::absolute(base.directory()).lexically_normal().string()}, {kIdentity, base.identity()}};
}

bool is_frozen(const Manifest& manifest) {
  const auto it = manifest.configuration.find("training.freeze");
  return it != manifest.configuration.end() && it->second == "backbone";
}

std::unique_ptr<TensorSource> backbone_of(const FrozenBase& base, const ModelConfig& model, std::uint64_t seed) {
  if (base.empty()) return std::make_unique<InitialWeights>(model, seed);
  const auto directory = base.find(kDirectory), identity = base.find(kIdentity);
  if (directory == base.end() || identity == base.end())
    fail(Exit::checkpoint, "a checkpoint of exits does not say where their backbone is: its manifest's base lacks directory or identity");
  auto weights = std::make_unique<BaseWeights>(directory->second);
  if (weights->model().identity() != identity->second)
    fail(Exit::checkpoint, "{}: is not what these exits were tuned on: files of it have changed since", directory->second);
  return weights;
}

std::unique_ptr<TensorSource> weights_of(Checkpoint& checkpoint, const ModelConfig& model) {
  const Manifest& manifest = checkpoint.manifest();
  if (!is_frozen(manifest)) return std::make_unique<CheckpointTensors>(checkpoint);
  return std::make_unique<TunedWeights>(checkpoint, backbone_of(manifest.base, model, seed_of(manifest)));
}

BaseWeights::BaseWeights(const std::string& path) : model_(path) {
  if (Checkpoint* checkpoint = model_.checkpoint()) of_checkpoint_ = weights_of(*checkpoint, model_.model());
}

}  // namespace offramp
