// A rank's state in a checkpoint: full-precision weights and optimizer state of what learns, as boxes. Of each element one rank of the
// world writes: the first tensor rank of what all have, and of each bucket the data rank whose shard it is, whether or not state is
// sharded. So files are of equal size, and their number is all they tell of the layout.
//
//   const std::vector<SavedBox> boxes = saved_boxes(machine);
//   take_snapshot(machine, machine.snapshot());
//   load_state(machine, checkpoint);                 // on every rank; whatever layout wrote it
#pragma once
#include "checkpoint/checkpoint.h"
#include "parallel/machine.h"

namespace offramp {

// The kinds of numbers that a machine saves of all that learns, in the order of its snapshot's rows; a frozen teacher's, once there is one,
// are in a row after them.
std::vector<std::string> saved_kinds(const MachineOptions& options);
inline const std::string kTeacher = "teacher";
// Those of one kind of a range within one of kept().
Tensor numbers(const Flat& flat, const std::string& kind, Range range);

// A box of a tensor in the snapshot: element (r, c) at `at + r * step + c` of all its rows together.
struct SavedBox {
  std::string kind, tensor;
  Shape shape;
  Box box;
  std::int64_t at = 0, step = 0;
};
// Of what there is now: of a frozen teacher none before it was taken.
std::vector<SavedBox> saved_boxes(Machine& machine);

// snapshot [kinds, elements] f32: a copy of this rank's shards.
void take_snapshot(Machine& machine, Tensor snapshot);

// A frozen teacher is loaded where both have one (FrozenTeacher::taken). All throw Error(Exit::checkpoint) on some ranks where tensors are
// missing or of other shapes; agree on it. The weights of other ranks (sharded, tied) come by machine.share_values(), which is for the
// caller to call once all agree.
void load_state(Machine& machine, Checkpoint& checkpoint);
// Weights alone. `where` names the source in messages. Tensors whose names begin with one of `kept` stay what they are.
void load_weights(Machine& machine, TensorSource& source, const std::string& where, const std::vector<std::string>& kept = {});
// Of weights, those of a frozen backbone, which no state has.
void load_frozen(Machine& machine, TensorSource& source, const std::string& where);

}  // namespace offramp
