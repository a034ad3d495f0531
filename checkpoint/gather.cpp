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
  const Shape shape = shape_of(name);
  OFFRAMP_CHECK(shape.rank == 2, "[gather] {} {} has no columns", name, to_text(shape));
  return gather(Lines{.tensor = name, .axis = 0, .first = first, .count = count});
}

std::span<float> Gatherer::gather(const Lines& lines) { return gather(lines.tensor, window_of(lines), lines.kind); }

Shape Gatherer::shape_of(const std::string& name) { return holders_of(name, Copies::first).front().piece->global; }

std::pair<std::int64_t, std::int64_t> Gatherer::extent(const std::string& name, int axis) {
  const Shape shape = shape_of(name);
  OFFRAMP_CHECK(axis < shape.rank && shape.rank <= 2, "[gather] {} {} has no axis {}", name, to_text(shape), axis);
  return {shape[axis], shape.rank == 1 ? 1 : shape[1 - axis]};
}

Gatherer::Window Gatherer::window_of(const Lines& lines) {
  const auto [length, all] = extent(lines.tensor, lines.axis);
  if (lines.axis == 0 && all > 1) return {.first = lines.first, .count = lines.count, .rows = length, .row_elements = all};
  return {.first = lines.first * length, .count = lines.count * length};
}

std::span<float> Gatherer::gather(const std::string& name, const Window& window, const std::string& kind) {
  OFFRAMP_CHECK(window.elements() <= kMost || window.count == 1, "[gather] {} elements at once are more than {}", window.elements(), kMost);
  const Group& world = machine_.mesh().world;
  Context& ctx = machine_.context();
  const int me = machine_.mesh().world_rank();
  if (me == 0) values_.resize(static_cast<std::size_t>(window.elements()));
  each_holder(name, window, Copies::first, [&](const Holder& holder, const std::vector<Stretch>& parts, Tensor message) {
    float* packed = message.as<float>();
    if (me == holder.rank)
      for (const Stretch& part : parts) packed = std::copy_n(held_at(holder, part, kind), part.count, packed);
    if (me == holder.rank && me != 0) send(ctx, message, world, 0, kGatherTag).wait(ctx);
    if (me != 0) return;
    if (holder.rank != 0) receive(ctx, message, world, holder.rank, kGatherTag).wait(ctx);
    packed = message.as<float>();
    for (const Stretch& part : parts)
      for (std::int64_t i = 0; i < part.count; ++i) values_[static_cast<std::size_t>(part.at + i * part.step)] = *packed++;
  });
  if (me != 0) return {};
  return values_;
}

void Gatherer::scatter(const Lines& lines, std::span<const float> values) {
  const Window window = window_of(lines);
  const Group& world = machine_.mesh().world;
  Context& ctx = machine_.context();
  const int me = machine_.mesh().world_rank();
  OFFRAMP_CHECK(me != 0 || static_cast<std::int64_t>(values.size()) == window.elements(), "[gather] {} elements for {}", values.size(),
                window.elements());
  each_holder(lines.tensor, window, Copies::all, [&](const Holder& holder, const std::vector<Stretch>& parts, Tensor message) {
    float* packed = message.as<float>();
    if (me == 0)
      for (const Stretch& part : parts)
        for (std::int64_t i = 0; i < part.count; ++i) *packed++ = values[static_cast<std::size_t>(part.at + i * part.step)];
    if (me == 0 && holder.rank != 0) send(ctx, message, world, holder.rank, kGatherTag).wait(ctx);
    if (me != holder.rank) return;
    if (me != 0) receive(ctx, message, world, 0, kGatherTag).wait(ctx);
    const float* from = message.as<float>();
    for (const Stretch& part : parts) std::copy_n(from, part.count, held_at(holder, part, lines.kind)), from += part.count;
  });
}

// Unless state is sharded, the first data rank has been given what all of them have.
void Gatherer::settle() {
  Context& ctx = machine_.context();
  const Flat& flat = machine_.flat();
  for (const Range& kept : flat.kept()) {
    if (!flat.shards_state())
      for (const std::string& kind : saved_kinds(machine_.options()))
        broadcast(ctx, numbers(flat, kind, kept), machine_.mesh().data, 0).wait(ctx);
    if (machine_.options().precision != DType::f32) copy(ctx, flat.values(kept), flat.exact(kept));
  }
  machine_.share_values();
}

void Gatherer::each_holder(const std::string& name, const Window& window, Copies copies, const Move& move) {
  const int me = machine_.mesh().world_rank();
  for (const Holder& holder : holders_of(name, copies)) {
    if (me != 0 && me != holder.rank) continue;
    const std::vector<Stretch> parts = stretches(holder, window);
    std::int64_t count = 0;
    for (const Stretch& part : parts) count += part.count;
    if (count == 0) continue;
    message_.resize(static_cast<std::size_t>(count));
    move(holder, parts, Tensor(message_.data(), {count}, DType::f32));
  }
}

// In the order of stages, then of data and tensor ranks; unless state is sharded, those of the first data rank.
std::vector<Gatherer::Holder> Gatherer::holders_of(const std::string& name, Copies copies) {
  const auto it = stages_of_.find(name);
  OFFRAMP_CHECK(it != stages_of_.end(), "[gather] the model has no tensor {}", name);
  if (stages_held_ != it->second) held_.clear(), nowhere_.reset(), stages_held_ = it->second;
  const Degrees& degrees = machine_.mesh().degrees;
  std::vector<Holder> holders;
  for (const int stage : it->second)
    for (int d = 0; d < (machine_.flat().shards_state() ? degrees.data : 1); ++d)
      for (int t = 0; t < degrees.tensor; ++t)
        append_holders(holders, name, {.tensor = t, .pipeline = stage % degrees.pipeline, .data = d}, copies);
  return holders;
}

void Gatherer::append_holders(std::vector<Holder>& holders, const std::string& name, const Coordinates& at, Copies copies) {
  const Holdings& held = held_by(at);
  for (const Parameter* p : held.flat.owned()) {
    const Piece* piece = piece_called(*p, name);
    if (piece && (at.tensor == 0 || copies == Copies::all || !p->replicated))
      holders.push_back({rank_of(at, machine_.mesh().degrees), &held, p, piece});
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

// On the holder itself.
float* Gatherer::held_at(const Holder& holder, const Stretch& part, const std::string& kind) {
  const std::int64_t begin = machine_.flat().place(*holder.parameter).begin + part.local;
  return numbers(machine_.flat(), kind, {begin, begin + part.count}).as<float>();
}

}  // namespace offramp
