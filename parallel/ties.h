// Tied tensors: one logical tensor, several copies along the pipeline, one owner.
#pragma once
#include "comm/mesh.h"
#include "parallel/placement.h"

namespace offramp {

// Adds up a stage's accumulators of a tie and what the next higher stage that holds it passed on, then passes the sum to the next lower
// one; the owner keeps it. Called once a step by every stage that holds the tie, in the order of ties, of one tie from the highest stage
// down. Stages of one rank pass nothing on: the lower one reads the higher one's sum.
void reduce_tie(Context& ctx, const Flat& flat, const Tie& tie, const TiedHere& here, const Group& pipeline);

// Passes the owner's value on, once to each rank that holds the tie, in the order of their lowest stages.
void share_value(Context& ctx, const TiedHere& here, const Tie& tie, const Group& pipeline);

}  // namespace offramp
