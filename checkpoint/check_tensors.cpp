#include "checkpoint/check_tensors.h"

#include <map>

#include "checkpoint/huggingface.h"
#include "tensor/check.h"

namespace offramp {

void check_tensors(const TensorSource& source, const ModelConfig& model, std::span<const ExitSpec> exits, const std::string& where) {
  std::map<std::string, Shape> there;
  for (const TensorEntry& entry : source.entries()) there[entry.name] = entry.shape;
  // A count that is no model's would make a table of any size.
  if (static_cast<std::uint64_t>(model.num_hidden_layers) > there.size())
    fail(Exit::checkpoint, "{}: {} layers, but there are only {} tensors", where, model.num_hidden_layers, there.size());
  std::vector<TensorEntry> wanted = logical_entries(backbone_entries(model));
  for (TensorEntry& entry : logical_entries(exit_entries(model, exits))) wanted.push_back(std::move(entry));
  for (const TensorEntry& entry : wanted) {
    const auto it = there.find(entry.name);
    if (it == there.end()) fail(Exit::checkpoint, "{}: has no tensor {}", where, entry.name);
    if (it->second != entry.shape)
      fail(Exit::checkpoint, "{}: {} is {}, by the model's configuration it would be {}", where, entry.name, to_text(it->second),
           to_text(entry.shape));
  }
}

}  // namespace offramp
