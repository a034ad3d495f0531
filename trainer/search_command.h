// offramp search: which subnet of a saved once-for-all model to export. Measures some subnets' losses on the first samples of some token
// files, fits a predictor to them, lets subnets evolve under limits of their cost, and measures what that proposes. Alone or under mpirun,
// where ranks are replicas that share the samples.
//
//   const SearchResult found = run_search_command({.checkpoint = "runs/supernet/checkpoints", .data = "runs/data/docs_valid", .samples =
//   64,
//                                                  .limit = 12e6}, world, activity);
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "comm/group.h"
#include "trainer/search_result.h"

namespace offramp {

struct SearchArguments {
  std::string checkpoint;  // a step's directory, a directory of them, or a Hugging Face directory
  std::string data;        // prefix of token files
  std::int64_t samples = 0;
  std::int64_t measure = 48;         // subnets, before any are proposed
  CostKind by = CostKind::flops;     // what the front is over, and the limit of
  std::optional<double> limit;       // FLOPs of a token, elements, or seconds
  std::int64_t sequence_length = 0;  // 0: that of its training; where the model does not say, the longest that it takes
  std::uint64_t seed = 0;
  std::string json, svg;  // files to write; empty: none
};

// Collective, and the same on every rank; rank 0 writes the files. Deterministic for a seed, but for latencies. Throws the same AgreedError
// on every rank: Exit::configuration for a limit below the cheapest subnet, which it names, and for models of one subnet; otherwise as
// run_eval_command.
SearchResult run_search_command(const SearchArguments& arguments, const Group& world, Activity& activity);

}  // namespace offramp
