// Machine: everything one rank needs to run steps, in one allocation: parameters, gradients, optimizer state, slabs, scratch, inputs.
//
// Built twice by the same lines: over Backing::none, where the arena only counts, to learn how many bytes it takes; then for real.
// So what is planned (plan_memory, --dry-run) and what is measured cannot differ.
#pragma once
#include <memory>

#include "parallel/generators.h"
#include "parallel/holdings.h"
#include "parallel/interpreter.h"
#include "parallel/measure.h"
#include "parallel/simulate.h"

namespace offramp {

// Bytes of one rank.
struct MemoryPlan {
  std::size_t parameters = 0, gradients = 0, optimizer = 0;  // parameters: with a frozen teacher's; optimizer: with masters of bf16 weights
  std::size_t activations = 0;                               // slabs: what lives between actions
  std::size_t transients = 0;                                // scratch of the largest action
  std::size_t buffers = 0;                                   // token ids, tables, statistics
  std::size_t peak = 0;                                      // all of it, as the allocator counts
  std::size_t messages = 0;                                  // besides: what sums over ranks that are under way at once borrow (comm/mpi.h)
};

class Machine {
 public:
  static constexpr std::int64_t kVotes = 4;

  // Throws Error(Exit::memory) when the host has not `bytes` left.
  Machine(const MachineOptions& options, const Mesh& mesh, Backing backing, std::size_t bytes, std::function<void()> tick = {},
          Activity* activity = nullptr);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Context& context() { return ctx_; }
  const Mesh& mesh() const { return mesh_; }
  const MachineOptions& options() const { return options_; }
  const Holdings& held() const { return held_; }
  Model& model() { return held_.model; }
  Flat& flat() { return held_.flat; }
  FrozenTeacher* teacher() { return held_.teacher ? &*held_.teacher : nullptr; }
  const MemoryPlan& memory() const { return memory_; }
  RankBytes rank_bytes() const;
  double flops() const { return measured_.passes.front().flops; }  // of this rank, for one microbatch: forward, exits, backward
  // Of this rank, for a step's microbatches, partial ones included: of each kind of pass that steps may have, the first of them the whole.
  std::vector<double> pass_flops() const;
  std::size_t pass_kind(const Pass& pass) const;  // its place among them
  double step_flops() const;                      // of the next train()
  const Program& program() const { return training_.program; }
  const Layout& layout() const { return training_.layout; }  // of one pass of the whole model
  const Arena& scratch() const { return scratch_; }
  const std::vector<Pool>& pools() const { return pools_; }

  // Where the loader puts a step's tokens: one entry a microbatch, in the order of layout().
  std::span<MicrobatchInput> inputs() { return inputs_; }
  // LayerSkip: the chance of each layer to be left out in the next train().
  std::span<float> layer_rates() { return layer_rates_; }
  // What the next train() runs over each microbatch: one of options().step_passes, but for widths. At first one pass of the whole model.
  void set_passes(const std::vector<Pass>& passes);
  const std::vector<Pass>& passes() const { return training_now_->passes; }
  // By a pass's number:
  std::span<const Tensor> exit_scale(std::size_t pass = 0) const;  // [1] f32 each
  Tensor sums(std::size_t pass = 0) const;                         // [exits, kLossSums] f64, of the running step
  Tensor gradient_scale() const { return gradient_scale_; }        // [1] f32, see StepInput; undefined unless the cool-down is filled
  Tensor squares() const { return squares_; }                      // [logical tensors] f64
  Tensor phases() const { return phases_; }                        // [6] f64, seconds by PhaseTimes' members
  Tensor votes() const { return votes_; }                          // [kVotes] f64: what ranks tell each other besides
  Tensor statistics() const { return statistics_; }                // all of the above in a row: one reduction
  Tensor scalars() const { return scalars_; }                      // [clip groups, 4] f32, see adamw in ops.h

  // [1 + kinds of optimizer state, and 1 of a frozen teacher, elements] f32: room for a copy of this rank's shards; undefined unless
  // options ask for it.
  Tensor snapshot() const { return snapshot_; }

  // What train() runs is added to it from now on; null: nothing.
  void trace(Trace* trace) { trace_ = trace; }
  // From now on this is called in place of whatever computes (StepInput).
  void stand_in(std::function<void(const Action&)> compute) { stand_in_ = std::move(compute); }
  // With MachineOptions::given_taps: what fills, in place of the backbone, what exits read (and the final head that they learn from).
  // Before the first step.
  void give_taps(TapFunction give) { give_tap_ = std::move(give); }
  // Gradients = those of the inputs, summed over data ranks and ties; sums() += this rank's losses.
  void train(const std::string& name, PhaseTimes& times);
  // After an update: brings what other data ranks updated, and passes tied values on.
  void share_values();
  // sums() += losses of the first `microbatches` inputs; of a subnet (options().evaluated) of its last exit.
  void evaluate(int microbatches, const std::string& name, PhaseTimes& times, const Subnet& subnet = {});
  // The same forwards; each tap is read in place of its exit, which does not run. Not where heads are split.
  void read_taps(int microbatches, const std::string& name, const TapFunction& read);

 private:
  struct Plan {
    Layout layout;
    Program program;           // of this rank
    std::vector<Pass> passes;  // one or more
  };
  Keep keep() const;  // of a forward
  Plan make_plan(int microbatches, bool backward, const std::vector<Pass>& passes = {});
  void plan_steps();
  Shape activations() const;  // [rows, h] of a microbatch on this rank
  void check_schedules();
  void allocate_pools();
  std::size_t slab_bytes(Hold hold) const;
  void allocate_buffers();
  std::size_t message_memory() const;
  const Plan& evaluation(int microbatches, const Subnet& subnet = {});
  void run(const Plan& plan, int microbatches, const std::string& name, PhaseTimes& times, const TapFunction& read = {});
  std::vector<PassInput> pass_inputs(const Plan& plan) const;

  MachineOptions options_;
  Mesh mesh_;
  Arena arena_, scratch_;
  Context ctx_;
  Holdings held_;
  Plan training_;
  std::map<std::vector<PassPlace>, Plan> steps_;  // of several passes: those that differ in nothing but width share a program
  Plan* training_now_ = &training_;
  std::map<std::pair<int, std::vector<PassPlace>>, Plan> evaluations_;  // by number of microbatches
  std::vector<Pass> measured_passes_;                                   // in the order of measured_.passes
  std::vector<Pool> pools_;
  std::vector<MicrobatchInput> inputs_;
  std::vector<Tensor> exit_scale_;
  std::vector<float> layer_rates_;
  Tensor gradient_scale_, sums_, squares_, phases_, votes_, statistics_, scalars_, snapshot_;
  RankMeasure measured_;
  MemoryPlan memory_;
  std::unique_ptr<Interpreter> interpreter_;
  Trace* trace_ = nullptr;
  std::function<void(const Action&)> stand_in_;
  TapFunction give_tap_;
};

// What the machine of this rank will take; needs no memory and no communication.
MemoryPlan plan_memory(const MachineOptions& options, const Mesh& mesh);

}  // namespace offramp
