// offramp eval: the loss, perplexity and accuracy of every exit of a saved model, or of a subnet of it, over the first samples of some
// token files; as its training validates. Alone or under mpirun, where ranks are replicas that share the samples.
//
//   run_eval_command({.checkpoint = "runs/quickstart/checkpoints", .data = "runs/data/docs_valid", .samples = 64}, world, activity);
#pragma once
#include <cstdint>
#include <string>

#include "comm/group.h"

namespace offramp {

struct EvalArguments {
  std::string checkpoint;  // a step's directory, a directory of them, or a Hugging Face directory
  std::string data;        // prefix of token files
  std::int64_t samples = 0;
  std::string subnet;                // {"num_hidden_layers": 4}; empty: the whole
  std::int64_t sequence_length = 0;  // 0: that of its training; where the model does not say, the longest that it takes
  bool json = false;
};

// Collective. What to print, on rank 0. Throws the same AgreedError on every rank: Exit::configuration for a subnet or sequences that the
// model does not have, Exit::data for the data, Exit::checkpoint for what cannot be read, Exit::memory.
std::string run_eval_command(const EvalArguments& arguments, const Group& world, Activity& activity);

}  // namespace offramp
