// A pipeline schedule as data. Includes nothing of ours.
//
//   F2@1 X0.2@1 B2@1      forward of microbatch 2 on stage 1, its exit 0 there, its backward
//
// Two functions give actions their meaning, and everybody asks them: dependencies() says what must have happened (the order of
// accumulation included, so every schedule that respects them gives the same bits), lifetimes() says which memory an action
// takes and gives back (so the planned peak is the interpreter's peak). A Layout holds all that the meaning depends on.
//
// An *exit* is one action: head forward, loss and head backward together. The final head is the last exit. Where output matrices
// are split by vocabulary over the pipeline, an exit is T on its stage, S, G, H on every rank, and U on its stage again; G waits for
// the statistics of every rank's S, U for every rank's G.
#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

enum class Op : std::uint8_t {
  Forward,         // F2@1     of microbatch 2 on stage 1
  Recompute,       // R2@1     the forward once more, for a backward whose stage keeps nothing of the first
  Exit,            // X0.2@1   exit 0, microbatch 2
  Backward,        // B2@1     B7.1@0: segment 1 of a backward that is cut into one segment a gradient bucket
  WeightGrad,      // W2@1     the weight gradients that a split backward left; cut in the backward's place: W7.1@0
  Tap,             // T0.2@1   exit 0 up to its output matrix, where that is split over the pipeline; on the exit's stage
  Scores,          // S0.2@3   rank 3's part of the vocabulary: logits and their statistics
  HeadBackward,    // G0.2@3   from all parts' statistics: the loss, and this part's share of the gradient of what T gave
  HeadWeightGrad,  // H0.2@3   gradient of rank 3's part of the output matrix
  Untap,           // U0.2@1   adds up all shares, and the backward of T
  SendActivation,  // SA2@1    stage 1's output to stage 2
  RecvActivation,  // RA2@1    posts the receive of stage 1's input from stage 0
  SendGradient,    // SG2@1    gradient of stage 1's input to stage 0
  RecvGradient,    // RG2@1    posts the receive of the gradient of stage 1's output from stage 2
  ShareTap,        // HT0.2@3  T's output to all ranks: sent by the exit's rank, its receive posted by the others
  ShareScores,     // HM0.2@3  statistics of S to and from all ranks
  SumShares,       // HU0.2@3  G's share to the exit's rank, which posts the receives of all others'
  ShareFinal,  // HF2@1    what the final head reads, to all ranks with exits that it teaches: sent by the last, its receive posted there
  ReduceTied,  // Y0@1     tie 0: add what came from the next higher stage that holds it, pass the sum on to the next lower
  ReduceGradients  // D0@1     starts the sum of stage 1's bucket 0 over the data-parallel ranks
};
inline constexpr std::size_t kOps = 20;

struct Action {
  Op op = Op::Forward;
  std::int16_t stage = 0;        // S, G, H, HT, HM, HU: the pipeline rank, which is also the number of its lowest stage
  std::int16_t microbatch = -1;  // -1: once a step
  std::int16_t index = -1;       // X, T, S, G, H, U, HT, HM, HU: exit;  B, W: segment, -1 the whole;  Y: tie;  D: bucket of the stage
  auto operator<=>(const Action&) const = default;
};
using Program = std::vector<Action>;    // of one pipeline rank; its tensor- and data-parallel peers run the same
using Schedule = std::vector<Program>;  // one program a pipeline rank

// Where an exit reads and what its action leaves behind.
struct ExitPlace {
  int stage = 0;
  int tap = 0;             // which unit's output it reads (a unit's number in the model): exits of equal tap share its memory
  bool at_output = false;  // the tap is also what the stage sends on
  bool gradient = true;    // it gives a gradient to its tap (false: detached)
  int matrix = -1;         // exits of one number share their output matrix; -1: this one's own
};
// A bucket of gradients is final after a segment of the last backward, or after a tie was summed. Exactly one is >= 0.
struct BucketPlace {
  int segment = -1, tie = -1;
};
// How far a microbatch goes: forward on the stages up to `last`, backward on those of them from `first` on. Exits run where
// the backward does. Whole: {0, stages - 1}.
struct Reach {
  int first = 0, last = 0;
};
// What of the model one pass runs. Supernets run several over the same samples: of P passes, microbatch m of the layout is pass m mod P
// over samples m / P. A pass goes forward up to its last exit's stage, and back from there.
enum class ExitRole : std::uint8_t { absent, alone, taught };  // taught: by what the final head reads in the pass of its teacher
struct PassPlace {
  int last = 0;                 // stage
  std::vector<ExitRole> exits;  // of all exits, in their order
  int teacher = -1;             // which pass that is, not behind this one; -1: nobody is taught
  bool back = true;             // false: it only teaches, as a frozen teacher, and no exit runs in it
  auto operator<=>(const PassPlace&) const = default;
};
struct Layout {
  int ranks = 1, stages = 1, microbatches = 1;
  bool backward = true;                           // false: evaluation: forwards and exits only, nothing is kept
  bool frozen = false;                            // only exits learn: no backward, nothing kept for one
  bool split_backward = false;                    // B gives the input's gradient only, W those of the weights
  bool split_heads = false;                       // every exit is T, S, G, H, U rather than X
  std::vector<bool> recompute;                    // per stage: F keeps nothing, R comes before B; empty: nowhere
  std::vector<Reach> reach;                       // per microbatch, in the order in which they add up; empty: all are whole
  std::vector<PassPlace> passes;                  // empty: one, of all exits, none of them taught
  std::vector<ExitPlace> exits;                   // in layer order
  std::vector<int> segments;                      // per stage: into how many the last backward is cut; empty: 1 each
  std::vector<std::vector<BucketPlace>> buckets;  // per stage; empty: no data-parallel reduction
  std::vector<std::vector<int>> ties;             // per tie: the stages that hold it, highest first; the last one owns it

  int rank_of(int stage) const { return stage % ranks; }
  int segments_of(int stage) const { return segments.empty() ? 1 : segments[static_cast<std::size_t>(stage)]; }
  bool recomputes(int stage) const { return !recompute.empty() && recompute[static_cast<std::size_t>(stage)]; }
  bool learns() const { return backward && !frozen; }  // the backbone does
  int pass_count() const { return passes.empty() ? 1 : static_cast<int>(passes.size()); }
  int pass_of(int microbatch) const { return microbatch % pass_count(); }
  int samples_of(int microbatch) const { return microbatch / pass_count(); }
  Reach reach_of(int microbatch) const {
    if (!passes.empty()) {
      const PassPlace& pass = passes[static_cast<std::size_t>(pass_of(microbatch))];
      return {pass.back ? 0 : stages, pass.last};
    }
    return reach.empty() ? Reach{0, stages - 1} : reach[static_cast<std::size_t>(microbatch)];
  }
  // Whether it goes through a frozen teacher in the model's place.
  bool of_frozen_teacher(int microbatch) const { return !passes.empty() && !passes[static_cast<std::size_t>(pass_of(microbatch))].back; }
  ExitRole role_of(int exit, int microbatch) const {
    if (passes.empty()) return ExitRole::alone;
    return passes[static_cast<std::size_t>(pass_of(microbatch))].exits[static_cast<std::size_t>(exit)];
  }
  // The microbatch whose final head teaches those of this one that are taught; -1: none.
  int teacher_of(int microbatch) const {
    const int teacher = passes.empty() ? -1 : passes[static_cast<std::size_t>(pass_of(microbatch))].teacher;
    return teacher < 0 ? -1 : microbatch - pass_of(microbatch) + teacher;
  }
  // Whether an exit runs: in training where the backward does.
  bool meets(int exit, int microbatch) const {
    const int stage = exits[static_cast<std::size_t>(exit)].stage;
    return role_of(exit, microbatch) != ExitRole::absent && (backward ? runs_backward(stage, microbatch) : runs_forward(stage, microbatch));
  }
  bool runs_forward(int stage, int microbatch) const { return stage <= reach_of(microbatch).last; }
  bool runs_backward(int stage, int microbatch) const {
    return backward && runs_forward(stage, microbatch) && stage >= reach_of(microbatch).first;
  }
  // Of the microbatches whose backward runs on a stage (frozen: whose exits do): the one before `microbatch`, and the last; -1: none.
  int backward_before(int stage, int microbatch) const {
    for (--microbatch; microbatch >= 0 && !runs_backward(stage, microbatch);) --microbatch;
    return microbatch;
  }
  int last_microbatch(int stage) const { return backward_before(stage, microbatches); }
};

// What must have run before `action` may run. Only actions that exist in this layout are named. What completes a stage's weight
// gradients (its last backward, or with split backwards its last W) is named by its segments where segments_of(stage) > 1, any
// other as a whole (index -1).
std::vector<Action> dependencies(const Action& action, const Layout& layout);

// Slabs of memory between actions.
enum class Hold : std::uint8_t {
  Input,        // what arrived from the stage before: RA .. B (evaluation and frozen: .. F)
  Stash,        // what a forward keeps for its backward: F .. B, with recompute R .. B; with split backwards .. W
  Deferred,     // what weight gradients need besides: B .. W
  Tap,          // a unit's output that exits read: F .. B (evaluation and frozen: .. the last exit that reads it)
  Output,       // what is sent on: F .. SA, or as a Tap where an exit reads it too; of whom it ends with: F
  TapGradient,  // of one exit: X or U .. B
  Gradient,     // of the stage's output, turned in place into that of its input: RG .. SG
  HeadStash,    // what T keeps for U
  HeadInput,    // what T gave, on every rank: T or HT .. H
  HeadScores,   // a rank's part of an exit's logits, then of their gradient: S .. H
  HeadStats,    // every rank's statistics: HM .. G
  HeadShare,    // what G gives: G .. HU, on the exit's rank G .. U
  HeadShares,   // all others' shares: HU .. U
  Final         // what the final head reads: on the last stage F, elsewhere HF .. the last exit that it teaches (or HF, without one)
};
inline constexpr int kHolds = 14;
const char* name_of(Hold hold);

struct Slab {
  Hold what = Hold::Input;
  std::int16_t stage = 0, microbatch = 0;
  std::int16_t index = -1;  // Tap: the unit; TapGradient, Head*: the exit
  auto operator<=>(const Slab&) const = default;
};
struct Lifetimes {
  std::vector<Slab> takes;  // before the action runs
  std::vector<Slab> gives;  // after it ran
};
Lifetimes lifetimes(const Action& action, const Layout& layout);

std::string to_text(const Action& action);
std::optional<Op> op_of(std::string_view action);  // of an action's text; empty: it begins like none
std::string to_text(const Program& program);       // one line
std::string to_text(const Schedule& schedule);     // a line a rank
// Throws std::invalid_argument with line and column.
Schedule parse_schedule(std::string_view text);

}  // namespace offramp
