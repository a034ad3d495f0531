// Tied tensors: one logical tensor, several copies along the pipeline, one owner.
#pragma once
#include "comm/mesh.h"
#include "parallel/placement.h"

namespace offramp {

// Adds up this stage's accumulators of a tie and what the next higher stage that holds it passed on, then passes the sum to the
// next lower one; the owner keeps it. Called once a step by every stage that holds the tie, in the order of ties.
void reduce_tie(Context& ctx, const TiedHere& here, const Tie& tie, int stage, const Group& pipeline);

// Passes the owner's value to every other stage that holds it, from the lowest to the highest.
void share_value(Context& ctx, const TiedHere& here, const Tie& tie, int stage, const Group& pipeline);

}  // namespace offramp
