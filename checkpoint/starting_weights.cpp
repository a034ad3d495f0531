#include "checkpoint/starting_weights.h"

#include <algorithm>

#include "checkpoint/huggingface.h"
#include "models/names.h"
#include "tensor/check.h"

namespace offramp {

StartingWeights::StartingWeights(TensorSource& base, const ModelConfig& config, std::span<const ExitSpec> exits) : base_(base) {
  std::vector<std::string> anew;  // prefixes: tensors of the base that this model does not take
  for (const ExitSpec& exit : exits) {
    if (exit.init != ExitInit::base) anew.push_back(Names::exit(exit.layer) + ".");
    if (exit.init == ExitInit::random) random_.push_back(anew.back());
  }
  std::map<std::string, Shape> there;
  for (const TensorEntry& entry : base.entries()) {
    there[entry.name] = entry.shape;
    const auto begins = [&](const std::string& prefix) { return entry.name.starts_with(prefix); };
    if (std::none_of(anew.begin(), anew.end(), begins)) entries_.push_back(entry);
  }
  for (const TensorEntry& entry : logical_entries(exit_entries(config, exits))) {
    const std::string origin = exit_origin(entry.name, config, exits);
    if (origin == entry.name) continue;
    const auto it = there.find(origin);
    if (it == there.end() || it->second != entry.shape)
      fail(Exit::checkpoint, "{} {} would begin as a copy of {}, which the base does not have", entry.name, to_text(entry.shape), origin);
    entries_.push_back(entry);
    copies_[entry.name] = origin;
  }
}

const std::string& StartingWeights::origin(const std::string& name) const {
  const auto it = copies_.find(name);
  return it == copies_.end() ? name : it->second;
}

void StartingWeights::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  base_.read(origin(name), first, count, out);
}

void StartingWeights::read_box(const std::string& name, const Shape& shape, const Box& box, float* out) {
  base_.read_box(origin(name), shape, box, out);
}

}  // namespace offramp
