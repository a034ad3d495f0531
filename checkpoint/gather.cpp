#include "checkpoint/gather.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {
// The lowest stage that holds a tensor owns it; ties are whole parameters, so the first one found there will do.
Gatherer::Gatherer(Machine& machine) : machine_(machine) {
  visit_with_stage(machine.model(), machine.partition(), [&](Parameter& p, int stage) {
    for (const Piece& piece : p.pieces) {
      Owner& owner = owners_.try_emplace(piece.name, Owner{stage, &p, &piece}).first->second;
      if (stage < owner.stage) owner = {stage, &p, &piece};
    }
  });
}

std::span<const float> Gatherer::gather(const std::string& name, std::int64_t first, std::int64_t count) {
  const auto it = owners_.find(name);
  OFFRAMP_CHECK(it != owners_.end(), "[gather] the model has no tensor {}", name);
  const Owner& owner = it->second;
  const Mesh& mesh = machine_.mesh();
  const int source = rank_of({.tensor = 0, .pipeline = owner.stage, .data = 0}, mesh.degrees);
  const int me = mesh.world_rank();
  if (me != source && me != 0) return {};
  OFFRAMP_CHECK(count <= kMost, "[gather] {} elements at once are more than {}", count, kMost);
  buffer_.resize(static_cast<std::size_t>(count));
  const Tensor tensor(buffer_.data(), {static_cast<std::int64_t>(buffer_.size())}, DType::f32);
  if (me == source) pack(owner, first, count);
  if (source == 0) return buffer_;
  if (me == source) {
    send(machine_.context(), tensor, mesh.world, 0, kGatherTag).wait(machine_.context());
    return {};
  }
  receive(machine_.context(), tensor, mesh.world, source, kGatherTag).wait(machine_.context());
  return buffer_;
}

void Gatherer::pack(const Owner& owner, std::int64_t first, std::int64_t count) {
  const float* values = owner.parameter->value.as<float>();
  runs(*owner.piece, [&](const Run& run) {
    const std::int64_t begin = std::max(run.global, first), end = std::min(run.global + run.count, first + count);
    if (begin < end) std::copy_n(values + run.local + (begin - run.global), end - begin, buffer_.begin() + (begin - first));
  });
}

}  // namespace offramp
