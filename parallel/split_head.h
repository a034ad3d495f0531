// Heads whose output matrix is split by vocabulary over the pipeline (schedule.h: T S G H U): what running them and measuring them
// have in common.
#pragma once
#include "models/head.h"
#include "parallel/schedule.h"

namespace offramp {

// y = the sum of `own`, which is number `at`, and of `others` [parts - 1, rows, h], in f32 and in the order of parts. y may be own.
void sum_shares(Context& ctx, Tensor y, Tensor own, Tensor others, int at);

// Slabs of one head: bytes.
std::size_t scores_bytes(std::int64_t tokens, std::int64_t vocabulary);  // logits of a part, and their statistics
std::size_t statistics_bytes(std::int64_t tokens, int parts);            // of all parts

struct HeadProbe {
  Context& ctx;  // counts, over memory that does not exist
  Arena& stash;  // of what T keeps for U
  Tensor slab;   // [rows, h]
  HeadIn in;     // x = slab
  Tensor sums;   // [kLossSums] f64
  Sequences sequences;
  int parts = 1;
  bool train = true;
};
// Runs a head's actions once each, T and U where the exit stands `here`; `after` hears which one has run.
void probe_split_head(Head& head, const HeadProbe& probe, bool here, const std::function<void(Op)>& after = {});

}  // namespace offramp
