// How many layers each stage gets. Heads and exits are paid for: the stage with the most work has as little as can be; with several
// stages a rank, the rank.
//
//   const Partition partition = partition_of(choose_layers(config, exits, {.stages = 4, .sequence_length = 2048}));
//
// A pure function of sizes, from FLOPs that a formula gives: every rank knows it alike, on every machine.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "parallel/placement.h"

namespace offramp {

struct PartitionOptions {
  int stages = 1, stages_per_rank = 1;
  std::int64_t sequence_length = 0;
  bool split_heads = false;  // then output matrices are everybody's, and no stage's
  // Layers run forward alone, and where no exit learns from the final head only those up to the last exit are there.
  bool frozen_backbone = false;
};

// Forward and backward FLOPs of a token through each layer, with the exits that read it; the final head is the last one's.
std::vector<double> layer_work(const ModelConfig& model, std::span<const ExitSpec> exits, const PartitionOptions& options);

// Of the partitions whose largest stage is least, that whose squared work is least; of these the even one, or that whose first stages
// have more. Throws Error(Exit::configuration) with more stages than layers.
std::vector<int> balanced_layers(std::span<const double> work, int stages);

// From there layers move one by one, the best move first, as long as that makes the largest rank smaller, of equals the ranks more
// alike, of equals the stages.
std::vector<int> balanced_ranks(std::span<const double> work, const std::vector<int>& layers, int ranks);

std::vector<int> choose_layers(const ModelConfig& model, std::span<const ExitSpec> exits, const PartitionOptions& options);
Partition partition_of(std::span<const int> layers_per_stage);

// The layers, from 1, of a pipeline rank's stages: "1-3 13-15".
std::string layers_text(const Partition& partition, int rank, int ranks);

// What is wrong with a list of layers per stage; empty: nothing. frozen: the layers are those up to the last exit.
std::string refuse_layers(std::span<const int> layers_per_stage, std::int64_t layers, int stages, bool frozen = false);

}  // namespace offramp
