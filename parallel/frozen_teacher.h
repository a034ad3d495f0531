// A frozen teacher: the model as it was at some step, forward alone, whose final head subnets learn from in all steps after it (OFA,
// arXiv 1908.09791, section 3.3). It has values alone, in the working type, cut like the model's: each rank has its stages' units, and
// where heads are the final head, for its logits are made again beside theirs.
//
//   FrozenTeacher teacher(arena, model, partition, stages);
//   teacher.take(ctx, flat, pipeline);       // between two steps, on every rank: it is what the model is now
//
// What a rank has of a tensor it has of the teacher's, too, by the same name. So its values are one more kind of state of each parameter
// that it has: what takes, saves and loads them looks for names alone.
#pragma once
#include "comm/group.h"
#include "parallel/placement.h"

namespace offramp {

class FrozenTeacher {
 public:
  FrozenTeacher(Arena& arena, Model& of, const Partition& partition, const std::vector<HeldStage>& stages);

  Model& model() { return model_; }
  const Flat& flat() const { return flat_; }  // all of it is frozen()
  // Of the rank's tensors by name; null: an exit's own, which the teacher has none of.
  const Parameter* find(const std::string& name) const;

  // Collective over the pipeline: not every stage with heads has the final one's matrix and norm.
  void take(Context& ctx, const Flat& learners, const Group& pipeline);
  bool taken() const { return taken_; }
  void set_taken() { taken_ = true; }  // its values were loaded

 private:
  void share_final_head(Context& ctx, const Group& pipeline);

  Model model_;
  std::vector<int> with_heads_;  // stages, but for the last
  Flat flat_;
  bool taken_ = false;
};

}  // namespace offramp
