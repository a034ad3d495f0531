// A pipeline schedule as data. Includes nothing of ours.
//
//   F2@1 X0.2@1 B2@1      forward of microbatch 2 on stage 1, its exit 0 there, its backward
//
// Two functions give actions their meaning, and everybody asks them: dependencies() says what must have happened (the order of
// accumulation included, so every schedule that respects them gives the same bits), lifetimes() says which memory an action
// takes and gives back (so the planned peak is the interpreter's peak). A Layout holds all that the meaning depends on.
//
// An *exit* is one action: head forward, loss and head backward together. The final head is the last exit.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

enum class Op : std::uint8_t {
  Forward,         // F2@1     of microbatch 2 on stage 1
  Exit,            // X0.2@1   exit 0, microbatch 2
  Backward,        // B2@1     B7.1@0: segment 1 of a backward that is cut into one segment a gradient bucket
  SendActivation,  // SA2@1    stage 1's output to stage 2
  RecvActivation,  // RA2@1    posts the receive of stage 1's input from stage 0
  SendGradient,    // SG2@1    gradient of stage 1's input to stage 0
  RecvGradient,    // RG2@1    posts the receive of the gradient of stage 1's output from stage 2
  ReduceTied,      // Y0@1     tie 0: add what came from the next higher stage that holds it, pass the sum on to the next lower
  ReduceGradients  // D0@1     starts the sum of stage 1's bucket 0 over the data-parallel ranks
};

struct Action {
  Op op = Op::Forward;
  std::int16_t stage = 0;
  std::int16_t microbatch = -1;  // -1: once a step
  std::int16_t index = -1;       // X: exit;  B: segment, -1 the whole;  Y: tie;  D: bucket of the stage
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
};
// A bucket of gradients is final after a segment of the last backward, or after a tie was summed. Exactly one is >= 0.
struct BucketPlace {
  int segment = -1, tie = -1;
};
struct Layout {
  int ranks = 1, stages = 1, microbatches = 1;
  bool backward = true;                           // false: evaluation: forwards and exits only, nothing is kept
  std::vector<ExitPlace> exits;                   // in layer order
  std::vector<int> segments;                      // per stage: into how many the last microbatch's backward is cut; empty: 1 each
  std::vector<std::vector<BucketPlace>> buckets;  // per stage; empty: no data-parallel reduction
  std::vector<std::vector<int>> ties;             // per tie: the stages that hold it, highest first; the last one owns it
  int rank_of(int stage) const { return stage % ranks; }
  int segments_of(int stage) const { return segments.empty() ? 1 : segments[static_cast<std::size_t>(stage)]; }
};

// What must have run before `action` may run. Only actions that exist in this layout are named. A backward that the schedule
// cuts into segments is named by its segments, any other as a whole (index -1): only the last microbatch's, and only where
// segments_of(stage) > 1.
std::vector<Action> dependencies(const Action& action, const Layout& layout);

// Slabs of memory between actions.
enum class Hold : std::uint8_t {
  Input,        // what arrived from the stage before: RA .. B (evaluation: .. F)
  Stash,        // what a forward keeps for its backward: F .. B
  Tap,          // a unit's output that exits read: F .. B (evaluation: .. the last exit that reads it)
  Output,       // what is sent on: F .. SA, or as a Tap where an exit reads it too
  TapGradient,  // of one exit: X .. B
  Gradient,     // of the stage's output, turned in place into that of its input: RG .. SG
};
inline constexpr int kHolds = 6;
const char* name_of(Hold hold);

struct Slab {
  Hold what = Hold::Input;
  std::int16_t stage = 0, microbatch = 0;
  std::int16_t index = -1;  // Tap: the unit; TapGradient: the exit
  auto operator<=>(const Slab&) const = default;
};
struct Lifetimes {
  std::vector<Slab> takes;  // before the action runs
  std::vector<Slab> gives;  // after it ran
};
Lifetimes lifetimes(const Action& action, const Layout& layout);

std::string to_text(const Action& action);
std::string to_text(const Program& program);    // one line
std::string to_text(const Schedule& schedule);  // a line a rank
// Throws std::invalid_argument with line and column.
Schedule parse_schedule(std::string_view text);

}  // namespace offramp
