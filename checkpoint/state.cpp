#include "checkpoint/state.h"

#include <algorithm>

#include "checkpoint/nearest_name.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kBuffer = std::int64_t{1} << 20;  // elements read at once, if a row is no larger

// A frozen teacher's numbers of elements begin .. end of a parameter, in full precision.
void copy_of_teacher(Machine& machine, const Parameter& teacher, Range elements, Tensor out) {
  const Tensor all = teacher.value.reshape({teacher.value.elements()});
  copy(machine.context(), out, all.narrow(0, elements.begin, elements.count()));
}

// Fills one kind of numbers from a source.
class Loader {
 public:
  Loader(Machine& machine, const std::string& kind, TensorSource& source, std::string where, const std::vector<std::string>& left_alone)
      : machine_(machine), kind_(kind), source_(source), where_(std::move(where)), left_alone_(left_alone) {
    for (const TensorEntry& entry : source.entries()) shapes_[entry.name] = entry.shape;
  }

  void run() {
    const Flat& flat = machine_.flat();
    for (Parameter* p : flat.owned()) {
      const Range place = flat.place(*p);
      for (const Range& kept : flat.kept()) {
        const Range part = kept & place;
        if (part.count() <= 0) continue;
        float* out = numbers(flat, kind_, part).as<float>();
        for (const Piece& piece : p->pieces)
          if (stored(piece)) load(piece, part.begin - place.begin, part.end - place.begin, out);
      }
    }
    if (kind_ != kWeights || machine_.options().precision == DType::f32) return;
    for (const Range& kept : flat.kept()) copy(machine_.context(), flat.values(kept), flat.exact(kept));
  }

  // What never changes has no masters: it is read in full precision, and rounded.
  void run_frozen(const Flat& flat) {
    std::vector<float> exact;
    for (Parameter* p : flat.frozen()) {
      const std::int64_t elements = p->shape.elements();
      exact.resize(static_cast<std::size_t>(elements));
      for (const Piece& piece : p->pieces)
        if (stored(piece)) load(piece, 0, elements, exact.data());
      copy(machine_.context(), p->value, Tensor(exact.data(), p->shape, DType::f32));
    }
  }

 private:
  // Of elements begin .. end of a parameter, which are to lie from `out` on, those of a piece.
  void load(const Piece& piece, std::int64_t begin, std::int64_t end, float* out) {
    for (const HeldBox& held : boxes_of(piece, begin, end)) {
      const Box& box = held.box;
      const std::int64_t most = std::max<std::int64_t>(1, kBuffer / box.columns);
      for (std::int64_t r = 0; r < box.rows; r += most) {
        const Box wanted{box.row + r, std::min(most, box.rows - r), box.column, box.columns};
        buffer_.resize(static_cast<std::size_t>(wanted.elements()));
        source_.read_box(piece.name, piece.global, wanted, buffer_.data());
        copy_box(out + held.local + r * held.step - begin, held.step, buffer_.data(), box.columns, wanted);
        machine_.context().beat();
      }
    }
  }

  bool stored(const Piece& piece) const {
    const auto it = shapes_.find(piece.name);
    if (it != shapes_.end() && it->second == piece.global) return true;
    if (it != shapes_.end())
      fail(Exit::checkpoint, "{}: {} is {}, the model's is {}: use the model: block that it was trained with", where_, piece.name,
           to_text(it->second), to_text(piece.global));
    const auto begins = [&](const std::string& prefix) { return piece.name.starts_with(prefix); };
    if (std::any_of(left_alone_.begin(), left_alone_.end(), begins)) return false;
    if (kind_ != kWeights)
      fail(Exit::checkpoint, "{}: has weights but no {} of {}: it is no state to resume from", where_, kind_, piece.name);
    std::vector<std::string> names;
    for (const auto& [name, shape] : shapes_) names.push_back(name);
    const char* advice = piece.name.starts_with("exits.") ? "; an exit that is new here begins by `init: final, copy_layer or random`" : "";
    fail(Exit::checkpoint, "{}: has no tensor {}{}{}", where_, piece.name, nearest_hint(piece.name, names), advice);
  }

  Machine& machine_;
  const std::string& kind_;
  TensorSource& source_;
  std::string where_;
  std::vector<std::string> left_alone_;
  std::map<std::string, Shape> shapes_;
  std::vector<float> buffer_;
};

}  // namespace

std::vector<std::string> saved_kinds(const MachineOptions& options) {
  std::vector<std::string> kinds{kWeights};
  kinds.insert(kinds.end(), options.optimizer_state.begin(), options.optimizer_state.end());
  return kinds;
}

Tensor numbers(const Flat& flat, const std::string& kind, Range range) {
  return kind == kWeights ? flat.exact(range) : flat.state(kind, range);
}

namespace {

// In one row of the snapshot, what of the parameters is wanted.
std::vector<SavedBox> boxes_of_kind(
    const Machine& machine, const std::string& kind,
    const std::function<bool(const Parameter&)>& wanted = [](const Parameter&) { return true; }) {
  const Flat& flat = machine.held().flat;
  const int tensor = machine.mesh().at.tensor;
  std::vector<SavedBox> boxes;
  std::int64_t shard_at = 0;
  for (const Bucket& bucket : flat.buckets()) {
    const Range shard = flat.shard(bucket);
    for (const Parameter* p : flat.owned()) {
      const Range place = flat.place(*p), part = shard & place;
      if (part.count() <= 0 || (p->replicated && tensor > 0) || !wanted(*p)) continue;
      for (const Piece& piece : p->pieces)
        for (const HeldBox& held : boxes_of(piece, part.begin - place.begin, part.end - place.begin))
          boxes.push_back({kind, piece.name, piece.global, held.box, shard_at + place.begin + held.local - shard.begin, held.step});
    }
    shard_at += shard.count();
  }
  return boxes;
}

// Of each bucket's shard, what of the frozen teacher belongs to the same tensors.
void snapshot_teacher(Machine& machine, Tensor row) {
  const Flat& flat = machine.flat();
  std::int64_t shard_at = 0;
  for (const Bucket& bucket : flat.buckets()) {
    const Range shard = flat.shard(bucket);
    for (const Parameter* p : flat.owned()) {
      const Range place = flat.place(*p), part = shard & place;
      const Parameter* teacher = part.count() > 0 ? machine.teacher()->find(p->name()) : nullptr;
      if (teacher)
        copy_of_teacher(machine, *teacher, {part.begin - place.begin, part.end - place.begin},
                        row.narrow(0, shard_at + part.begin - shard.begin, part.count()));
    }
    shard_at += shard.count();
    machine.context().beat();
  }
}

}  // namespace

std::vector<SavedBox> saved_boxes(Machine& machine) {
  std::vector<SavedBox> boxes;
  const std::int64_t elements = machine.snapshot().shape[1];
  const auto append = [&](std::vector<SavedBox> of_kind, std::size_t row) {
    for (SavedBox& box : of_kind) box.at += static_cast<std::int64_t>(row) * elements, boxes.push_back(std::move(box));
  };
  const std::vector<std::string> kinds = saved_kinds(machine.options());
  for (std::size_t k = 0; k < kinds.size(); ++k) append(boxes_of_kind(machine, kinds[k]), k);
  const FrozenTeacher* teacher = machine.teacher();
  if (teacher && teacher->taken())
    append(boxes_of_kind(machine, kTeacher, [&](const Parameter& p) { return teacher->find(p.name()) != nullptr; }), kinds.size());
  return boxes;
}

void take_snapshot(Machine& machine, Tensor snapshot) {
  const Flat& flat = machine.flat();
  const std::vector<std::string> kinds = saved_kinds(machine.options());
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    float* out = snapshot.narrow(0, static_cast<std::int64_t>(k), 1).as<float>();
    for (const Bucket& bucket : flat.buckets()) {
      const Range shard = flat.shard(bucket);
      std::copy_n(numbers(flat, kinds[k], shard).as<float>(), shard.count(), out);
      out += shard.count();
      machine.context().beat();
    }
  }
  if (machine.teacher() && machine.teacher()->taken())
    snapshot_teacher(machine, snapshot.narrow(0, static_cast<std::int64_t>(kinds.size()), 1).reshape({snapshot.shape[1]}));
}

void load_state(Machine& machine, Checkpoint& checkpoint) {
  for (const std::string& kind : saved_kinds(machine.options())) {
    CheckpointTensors source(checkpoint, kind);
    Loader(machine, kind, source, checkpoint.directory() + "/manifest.json", {}).run();
  }
  if (!machine.teacher() || std::ranges::count(checkpoint.kinds(), kTeacher) == 0) return;
  CheckpointTensors source(checkpoint, kTeacher);
  Loader(machine, kTeacher, source, checkpoint.directory() + "/manifest.json", {}).run_frozen(machine.teacher()->flat());
  machine.teacher()->set_taken();
}

void load_weights(Machine& machine, TensorSource& source, const std::string& where, const std::vector<std::string>& kept) {
  Loader(machine, kWeights, source, where, kept).run();
  load_frozen(machine, source, where);
}

void load_frozen(Machine& machine, TensorSource& source, const std::string& where) {
  Loader(machine, kWeights, source, where, {}).run_frozen(machine.flat());
}

}  // namespace offramp
