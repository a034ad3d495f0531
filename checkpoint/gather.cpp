#include "checkpoint/gather.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {
namespace {
constexpr int kTag = 1 << 22;
}

// The lowest stage that holds a tensor owns it; ties are whole parameters, so the first one found there will do.
Gatherer::Gatherer(Machine& machine) : machine_(machine) {
  const auto collect = [&](int stage) {
    return [&, stage](Parameter& p) {
      for (const Piece& piece : p.pieces) {
        Owner& owner = owners_.try_emplace(piece.name, Owner{stage, &p, &piece}).first->second;
        if (stage < owner.stage) owner = {stage, &p, &piece};
      }
    };
  };
  Model& model = machine.model();
  for (Head& head : model.heads) head.visit(collect(machine.partition().stage_of(head.tap())));
  for (std::size_t u = 0; u < model.units.size(); ++u)
    model.units[u].module->visit(collect(machine.partition().stage_of(static_cast<int>(u))));
}

std::span<const float> Gatherer::gather(const std::string& name) {
  const auto it = owners_.find(name);
  OFFRAMP_CHECK(it != owners_.end(), "[gather] the model has no tensor {}", name);
  const Owner& owner = it->second;
  const Mesh& mesh = machine_.mesh();
  const int source = rank_of({.tensor = 0, .pipeline = owner.stage, .data = 0}, mesh.degrees);
  const int me = mesh.world_rank();
  if (me != source && me != 0) return {};
  buffer_.resize(static_cast<std::size_t>(owner.piece->global.elements()));
  const Tensor tensor(buffer_.data(), {static_cast<std::int64_t>(buffer_.size())}, DType::f32);
  if (me == source) pack(owner);
  if (source == 0) return buffer_;
  if (me == source) {
    send(machine_.context(), tensor, mesh.world, 0, kTag).wait(machine_.context());
    return {};
  }
  receive(machine_.context(), tensor, mesh.world, source, kTag).wait(machine_.context());
  return buffer_;
}

void Gatherer::pack(const Owner& owner) {
  const float* values = owner.parameter->value.as<float>();
  runs(*owner.piece, [&](const Run& run) { std::copy_n(values + run.local, run.count, buffer_.begin() + run.global); });
}

}  // namespace offramp
