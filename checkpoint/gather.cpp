#include "checkpoint/gather.h"

#include <algorithm>

#include "tensor/check.h"

namespace offramp {
namespace {

const Piece* piece_called(const Parameter& parameter, const std::string& name) {
  const auto it = std::find_if(parameter.pieces.begin(), parameter.pieces.end(), [&](const Piece& p) { return p.name == name; });
  return it == parameter.pieces.end() ? nullptr : &*it;
}

}  // namespace

Gatherer::Gatherer(Machine& machine) : machine_(machine) {
  const std::set<std::string> split = split_outputs(machine.model());
  visit_with_stage(machine.model(), machine.held().partition, [&](Parameter& p, int stage) {
    for (const Piece& piece : p.pieces) {
      std::vector<int>& stages = stages_of_[piece.name];
      if (stages.empty() || (split.contains(piece.name) && std::ranges::count(stages, stage) == 0))
        stages.push_back(stage);
      else if (!split.contains(piece.name))
        stages.front() = std::min(stages.front(), stage);
    }
  });
  for (auto& [name, stages] : stages_of_) std::ranges::sort(stages);
}

std::span<const float> Gatherer::gather(const std::string& name, std::int64_t first, std::int64_t count) {
  return gather(name, Window{.first = first, .count = count});
}

std::span<const float> Gatherer::gather_columns(const std::string& name, std::int64_t first, std::int64_t count) {
  const Shape shape = holders_of(name).front().piece->global;
  OFFRAMP_CHECK(shape.rank == 2, "[gather] {} {} has no columns", name, to_text(shape));
  return gather(name, Window{.first = first, .count = count, .rows = shape[0], .row_elements = shape[1]});
}

std::span<const float> Gatherer::gather(const std::string& name, const Window& window) {
  OFFRAMP_CHECK(window.elements() <= kMost || window.count == 1, "[gather] {} elements at once are more than {}", window.elements(), kMost);
  const Group& world = machine_.mesh().world;
  Context& ctx = machine_.context();
  const int me = machine_.mesh().world_rank();
  if (me == 0) values_.resize(static_cast<std::size_t>(window.elements()));
  for (const Holder& holder : holders_of(name)) {
    if (me != 0 && me != holder.rank) continue;
    const std::vector<Stretch> parts = stretches(holder, window);
    std::int64_t count = 0;
    for (const Stretch& part : parts) count += part.count;
    if (count == 0) continue;
    message_.resize(static_cast<std::size_t>(count));
    const Tensor message(message_.data(), {count}, DType::f32);
    if (me == holder.rank) pack(parts, *holder.parameter);
    if (me == holder.rank && me != 0) send(ctx, message, world, 0, kGatherTag).wait(ctx);
    if (me == 0 && holder.rank != 0) receive(ctx, message, world, holder.rank, kGatherTag).wait(ctx);
    if (me == 0) unpack(parts);
  }
  if (me != 0) return {};
  return values_;
}

// In the order of stages, then of data and tensor ranks. Of what all tensor ranks have, the first one's is taken; unless state is
// sharded, the first data rank's.
std::vector<Gatherer::Holder> Gatherer::holders_of(const std::string& name) {
  const auto it = stages_of_.find(name);
  OFFRAMP_CHECK(it != stages_of_.end(), "[gather] the model has no tensor {}", name);
  if (stages_held_ != it->second) held_.clear(), nowhere_.reset(), stages_held_ = it->second;
  const Degrees& degrees = machine_.mesh().degrees;
  std::vector<Holder> holders;
  for (const int stage : it->second)
    for (int d = 0; d < (machine_.flat().shards_state() ? degrees.data : 1); ++d)
      for (int t = 0; t < degrees.tensor; ++t) append_holders(holders, name, {.tensor = t, .pipeline = stage % degrees.pipeline, .data = d});
  return holders;
}

void Gatherer::append_holders(std::vector<Holder>& holders, const std::string& name, const Coordinates& at) {
  const Holdings& held = held_by(at);
  for (const Parameter* p : held.flat.owned()) {
    const Piece* piece = piece_called(*p, name);
    if (piece && (at.tensor == 0 || !p->replicated)) holders.push_back({rank_of(at, machine_.mesh().degrees), &held, p, piece});
  }
}

const Holdings& Gatherer::held_by(const Coordinates& at) {
  const Mesh& mesh = machine_.mesh();
  const int rank = rank_of(at, mesh.degrees);
  if (rank == mesh.world_rank()) return machine_.held();
  auto& held = held_[rank];
  if (!held) held = std::make_unique<Holdings>(machine_.options(), Mesh::planned(rank, mesh.degrees), nowhere_);
  return *held;
}

std::vector<Gatherer::Stretch> Gatherer::stretches(const Holder& holder, const Window& window) const {
  std::vector<Stretch> parts;
  const auto add = [&](const Run& run) {
    if (window.rows == 0) {
      const Range part = Range{run.global, run.global + run.count} & Range{window.first, window.first + window.count};
      if (part.count() > 0) parts.push_back({run.local + part.begin - run.global, part.begin - window.first, 1, part.count()});
      return;
    }
    for (std::int64_t row = run.global / window.row_elements; row * window.row_elements < run.global + run.count; ++row) {
      const std::int64_t begin = row * window.row_elements;
      const Range part = Range{run.global - begin, run.global + run.count - begin} & Range{window.first, window.first + window.count} &
                         Range{0, window.row_elements};
      if (part.count() > 0)
        parts.push_back(
            {run.local + begin + part.begin - run.global, (part.begin - window.first) * window.rows + row, window.rows, part.count()});
    }
  };
  const Flat& flat = holder.held->flat;
  const Range place = flat.place(*holder.parameter);
  for (const Range& kept : flat.kept()) {
    const Range part = kept & place;
    if (part.count() > 0) runs(*holder.piece, part.begin - place.begin, part.end - place.begin, add);
  }
  return parts;
}

// From this rank's masters, or from its values where these are in full precision.
void Gatherer::pack(const std::vector<Stretch>& parts, const Parameter& parameter) {
  const Flat& flat = machine_.flat();
  const Range place = flat.place(parameter);
  auto out = message_.begin();
  for (const Stretch& part : parts) {
    const Range range{place.begin + part.local, place.begin + part.local + part.count};
    out = std::copy_n(flat.exact(range).as<float>(), part.count, out);
  }
}

void Gatherer::unpack(const std::vector<Stretch>& parts) {
  auto in = message_.begin();
  for (const Stretch& part : parts)
    for (std::int64_t i = 0; i < part.count; ++i) values_[static_cast<std::size_t>(part.at + i * part.step)] = *in++;
}

}  // namespace offramp
