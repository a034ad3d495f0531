#include "checkpoint/initial_weights.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {

InitialWeights::InitialWeights(const ModelConfig& config, std::uint64_t seed) : seed_(seed) {
  Model model = build_model(config, {});
  const auto add = [&](Parameter& p) {
    for (const Piece& piece : p.pieces)
      if (inits_.try_emplace(piece.name, p.init).second) entries_.push_back({piece.name, piece.global});
  };
  for (Unit& unit : model.units) unit.module->visit(add);
  for (Head& head : model.heads) head.visit(add);
}

void InitialWeights::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  if (name != name_) {
    const auto entry = std::ranges::find(entries_, name, &TensorEntry::name);
    OFFRAMP_CHECK(entry != entries_.end(), "[initial_weights] the model has no {}", name);
    const Parameter parameter{.shape = entry->shape, .init = inits_.at(name), .pieces = {whole(name, entry->shape)}};
    values_.resize(static_cast<std::size_t>(entry->shape.elements()));
    initialize(parameter, Tensor(values_.data(), {entry->shape.elements()}, DType::f32), seed_);
    name_ = name;
  }
  std::copy_n(values_.begin() + first, count, out);
}

}  // namespace offramp
