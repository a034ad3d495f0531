// Machine: everything one rank needs to run steps, in one allocation: parameters, gradients, optimizer state, slabs, scratch, inputs.
//
// Built twice by the same lines: over Backing::none, where the arena only counts, to learn how many bytes it takes; then for real.
// So what is planned (plan_memory, --dry-run) and what is measured cannot differ.
#pragma once
#include <memory>

#include "parallel/generators.h"
#include "parallel/interpreter.h"
#include "parallel/simulate.h"

namespace offramp {

struct MachineOptions {
  ModelConfig model;
  std::vector<ExitSpec> exits;
  std::string schedule = "1f1b";
  std::int64_t micro_batch_size = 1, sequence_length = 0;
  int microbatches = 1;  // a step and rank
  bool document_mask = false;
  std::vector<std::string> optimizer_state;
  std::int64_t bucket_elements = std::int64_t{1} << 22;
};

// Bytes of one rank.
struct MemoryPlan {
  std::size_t parameters = 0, gradients = 0, optimizer = 0;
  std::size_t activations = 0;  // slabs: what lives between actions
  std::size_t transients = 0;   // scratch of the largest action
  std::size_t buffers = 0;      // token ids, tables, statistics
  std::size_t peak = 0;         // all of it, as the allocator counts
  std::size_t messages = 0;     // besides: what sums over data ranks that are under way at once borrow (comm/mpi.h)
};

class Machine {
 public:
  // Throws Error(Exit::memory) when the host has not `bytes` left.
  Machine(const MachineOptions& options, const Mesh& mesh, Backing backing, std::size_t bytes, std::function<void()> tick = {},
          Activity* activity = nullptr);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Context& context() { return ctx_; }
  const Mesh& mesh() const { return mesh_; }
  Model& model() { return model_; }
  Flat& flat() { return *flat_; }
  const Partition& partition() const { return partition_; }
  const std::vector<Tie>& ties() const { return ties_; }
  const MemoryPlan& memory() const { return memory_; }
  double flops() const { return flops_; }  // of this rank, for one microbatch: forward, exits, backward
  const Program& program() const { return training_.program; }
  const Layout& layout() const { return training_.layout; }
  const Arena& scratch() const { return scratch_; }
  const std::vector<Pool>& pools() const { return pools_; }

  // Where the loader puts a step's tokens: one entry a microbatch.
  std::span<const MicrobatchInput> inputs() const { return inputs_; }
  std::span<const Tensor> exit_scale() const { return exit_scale_; }  // [1] f32 each
  Tensor sums() const { return sums_; }                               // [exits, kLossSums] f64, of the running step
  Tensor squares() const { return squares_; }                         // [logical tensors] f64
  Tensor phases() const { return phases_; }                           // [6] f64, seconds by PhaseTimes' members
  Tensor statistics() const { return statistics_; }                   // all of the above in a row: one reduction
  Tensor scalars() const { return scalars_; }                         // [4] f32, see adamw in ops.h

  // Gradients = those of the first microbatches() inputs, summed over data ranks and ties; sums() += this rank's losses.
  void train(const std::string& name, PhaseTimes& times);
  // sums() += losses of the first `microbatches` inputs.
  void evaluate(int microbatches, const std::string& name, PhaseTimes& times);

 private:
  struct Plan {
    Layout layout;
    Program program;  // of this rank
  };
  Plan make_plan(int microbatches, bool backward);
  void check_schedules() const;
  void allocate_pools();
  void allocate_buffers();
  void measure();
  void run(const Plan& plan, int microbatches, const std::string& name, PhaseTimes& times);

  MachineOptions options_;
  Mesh mesh_;
  Arena arena_, scratch_;
  Context ctx_;
  Model model_;
  Partition partition_;
  std::vector<Tie> ties_;
  std::vector<Units> segments_;
  std::unique_ptr<Flat> flat_;
  Plan training_;
  std::map<int, Plan> evaluations_;  // by number of microbatches
  std::vector<Pool> pools_;
  std::vector<MicrobatchInput> inputs_;
  std::vector<Tensor> exit_scale_;
  Tensor sums_, squares_, phases_, statistics_, scalars_;
  std::size_t stash_bytes_ = 0, scratch_bytes_ = 0;
  double flops_ = 0;
  MemoryPlan memory_;
  std::unique_ptr<Interpreter> interpreter_;
};

// What the machine of this rank will take; needs no memory and no communication.
MemoryPlan plan_memory(const MachineOptions& options, const Mesh& mesh);

}  // namespace offramp
