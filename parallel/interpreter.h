// Runs one rank's Program: one case an Op, each a few lines. The only place where schedule, stage, memory and messages meet.
//
// What lives between actions is a slab, taken and given back exactly as lifetimes() says. Receives are posted when their action
// comes and waited for by their consumer; sends go on in the background: a slab that may still be leaving is used again last.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "comm/mesh.h"
#include "parallel/stage.h"
#include "parallel/ties.h"
#include "parallel/trace.h"

namespace offramp {

// One microbatch as every stage sees it; in memory that outlives the step.
struct MicrobatchInput {
  Tensor ids, labels;  // [n] i32; a label < 0 is not counted
  Sequences sequences;
  std::int64_t first_sample = 0;  // of the whole job's samples
};

// What exits read of a unit's output: tap [rows, h] of one microbatch on this rank; and what the final head that they learn from reads:
// kFinalTap.
using TapFunction = std::function<void(const MicrobatchInput& microbatch, int unit, Tensor tap)>;

// Where a step's time went, in seconds. Waiting for a message is communication, whoever waits.
struct PhaseTimes {
  double forward = 0, backward = 0, exits = 0, communication = 0, optimizer = 0, data = 0;
};
inline constexpr int kPhases = 6;

// What the interpreter runs on; all of it belongs to the Machine (parallel/machine.h).
struct Equipment {
  std::vector<Stage> stages;   // of this rank, from the lowest
  std::vector<Stage> teacher;  // the frozen teacher's in their places; empty: there is none
  int units = 0;               // of the whole model
  std::vector<Head>* heads = nullptr;
  Head* final = nullptr;          // that exits learn from; null: none does
  Head* teacher_final = nullptr;  // the frozen teacher's
  Flat* flat = nullptr;
  const Mesh* mesh = nullptr;
  std::vector<Pool>* pools = nullptr;  // one a Hold
  const std::vector<Tie>* ties = nullptr;
  Shape activations;  // [rows, h] of a microbatch on this rank, of the whole model's width
  DType precision = DType::f32;
  bool sequence_parallel = false;
  Keep keep = Keep::everything;  // of a forward whose backward comes
};

// Of a layout's passes one.
struct PassInput {
  Subnet subnet{};
  std::span<const Tensor> exit_scale;  // [1] f32 an exit: weight / counted tokens that it sees
  Tensor sums;                         // [exits, kLossSums] f64, +=
  bool regularise = true;              // dropout and LayerSkip are on, where draws are
  std::optional<Target> target{};      // of exits that another pass teaches
  float temperature = 1;               // at which they learn a distribution
  float label_weight = 0;              // of the labels' loss beside it
};

struct StepInput {
  std::span<const MicrobatchInput> microbatches;  // one for the microbatches of all passes
  std::vector<PassInput> passes;                  // of the layout
  Tensor gradient_scale;                          // [1] f32: of all that this stage adds up, before others add to it; undefined: none
  Draws draws;                                    // first_sample is each microbatch's own
  std::string name;                               // "step 12": for the watchdog and for errors
  Trace* trace = nullptr;                         // set: what runs is added to it
  // Set: is called in place of whatever computes, while all else is as ever. For measuring schedules in given times.
  std::function<void(const Action&)> stand_in = {};
  TapFunction give_tap = {};  // of MachineOptions::given_taps: fills a tap, in place of a forward
  TapFunction read_tap = {};  // set: in place of an exit

  // By a layout's microbatches.
  const PassInput& pass(int microbatch) const { return passes[static_cast<std::size_t>(microbatch) % passes.size()]; }
  const MicrobatchInput& samples(int microbatch) const { return microbatches[static_cast<std::size_t>(microbatch) / passes.size()]; }
  Draws draws_of(int microbatch) const {
    if (!pass(microbatch).regularise) return {};
    Draws of = draws;
    of.first_sample = samples(microbatch).first_sample;
    return of;
  }
};

class Interpreter {
 public:
  Interpreter(Context& ctx, Equipment equipment) : ctx_(&ctx), on_(std::move(equipment)) {}
  // Gradients +=. On return every message and reduction of the program has ended. With layout.backward == false nothing but
  // `sums` changes.
  void run(const Program& program, const Layout& layout, const StepInput& input, PhaseTimes& times);

 private:
  struct KeptForward {  // of a forward, until its backward
    KeptForward(std::byte* memory, std::size_t bytes, Keep keep, Sequences sequences, Draws draws, const Subnet& subnet)
        : arena(memory, bytes, "stash"), slot(arena, keep, sequences, draws, subnet) {}
    Arena arena, deferred;
    Slot slot;
  };
  const Stage& stage_of(const Action& action) const {
    return on_.stages[static_cast<std::size_t>(action.stage / on_.mesh->degrees.pipeline)];
  }
  const Stage& teacher_stage_of(const Action& action) const {
    return on_.teacher[static_cast<std::size_t>(action.stage / on_.mesh->degrees.pipeline)];
  }
  void execute(const Action& action, const Layout& layout, const StepInput& input);
  void await_arrivals(const Action& action, const Layout& layout);
  void forward(const Action& action, const Layout& layout, const StepInput& input);
  void give_taps(const Action& action, const Layout& layout, const StepInput& input);
  void read_final(const Action& action, const StepInput& input) const;
  void recompute(const Action& action, const Layout& layout, const StepInput& input);
  // Of the stage, what the microbatch's pass runs.
  Units units_of(const Action& action, const Layout& layout, Units units) const;
  Tensor input_of(const Action& action, const MicrobatchInput& microbatch) const;
  std::unique_ptr<KeptForward> keep_forward(const Slab& stash, Keep keep, const StepInput& input) const;
  void weight_gradient(const Action& action, const Layout& layout);
  void exit(const Action& action, const Layout& layout, const StepInput& input);
  Tensor tap_of(const Action& action, const Layout& layout) const;
  Teacher teacher_of(const Action& action, const Layout& layout);
  void share_final(const Action& action, const Layout& layout);
  void backward(const Action& action, const Layout& layout);
  void reduce_tied(const Action& action, const StepInput& input);
  void reduce_gradients(const Action& action, const StepInput& input);
  void scale_gradients(const Bucket& bucket, const StepInput& input);
  void finish(Trace* trace);
  void look_for_ends(Trace& trace);

  // Of a head that is split over the pipeline (parallel/interpreter_heads.cpp).
  void execute_head(const Action& action, const Layout& layout, const StepInput& input);
  void tap(const Action& action, const Layout& layout, const StepInput& input);
  void head_backward(const Action& action, const Layout& layout, const StepInput& input);
  void untap(const Action& action, const Layout& layout);
  void share_tap(const Action& action, const Layout& layout);
  void share_scores(const Action& action, const StepInput& input);
  void sum_shares(const Action& action, const Layout& layout);
  ScoresIn scores_in(const Action& action, const StepInput& input);
  Tensor own_statistics(const Action& action, const StepInput& input) const;

  // Slabs, and messages between ranks (parallel/interpreter_slabs.cpp).
  static double now();  // seconds
  void take(const Slab& slab);
  void give(const Slab& slab);
  Tensor tensor_of(Hold what, const Action& action, int index = -1) const;  // [rows, h] of the microbatch's pass
  Tensor tensor_of(const Slab& slab, Shape shape, DType dtype) const;       // at the slab's start
  void await(Work&& work);
  void await_arrival(const Slab& slab);
  void send_slab(const Action& action, Hold what, int to);       // a stage
  void receive_slab(const Action& action, Hold what, int from);  // a stage

  Context* ctx_;
  Equipment on_;
  std::map<Slab, int> live_;                                   // slab -> its number in the pool
  std::map<Slab, std::vector<Work>> arriving_;                 // posted receives
  std::map<std::pair<Hold, int>, std::vector<Work>> leaving_;  // last sends from a pool's slab
  std::map<Slab, std::unique_ptr<KeptForward>> kept_;
  struct Reduction {
    Work work;
    std::size_t event = 0;  // of the trace
    bool ended = false;
  };
  std::vector<Reduction> reductions_;
  std::vector<std::int64_t> widths_;  // of the running step's passes
  double waited_ = 0;
};

}  // namespace offramp
