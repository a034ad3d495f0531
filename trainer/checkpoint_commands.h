// offramp checkpoint ls | verify | diff | reshard | average | merge. One process, no ranks.
#pragma once
#include <string>
#include <vector>

namespace offramp {

struct CheckpointArguments {
  enum class Verb { ls, verify, diff, reshard, average, merge } verb = Verb::ls;
  std::vector<std::string> inputs;  // steps' directories, or directories of them
  std::string output;               // reshard, average, merge: the directory to put step-N into
  int files = 1;                    // reshard: writers
  int last = 0;                     // average: so many of the newest of a directory; 0: all that are named
};

// The step that a CHECKPOINT stands for: itself, or of a directory the newest that verifies. Error(Exit::checkpoint).
std::string newest_sound(const std::string& checkpoint);

// What to print. Throws Error(Exit::checkpoint) for what cannot be read, of verify for what is damaged.
std::string run_checkpoint_command(const CheckpointArguments& arguments);

}  // namespace offramp
