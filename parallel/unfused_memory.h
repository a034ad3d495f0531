// Activations as Megatron-LM kept them when attention wrote all its probabilities to memory (Korthikanti et al., arXiv 2205.05198,
// section 4, table 2): what `offramp plan` reports under `attention: {kernel: unfused}` in place of what our own units keep, which is
// less. Of layers only: what heads, the embedding and messages keep is not in that paper's table.
#pragma once
#include "parallel/holdings.h"

namespace offramp {

// Bytes that a layer keeps of one microbatch on one of `tensor` ranks, from its forward to its backward. For a GPT-2 whose MLP is four
// times as wide, with dropout, in two bytes an element: sbh(10 + 24/t + 5as/(ht)), with sequence parallelism sbh(34 + 5as/h)/t; where
// attention is made again without 5as/h; where all is, its input alone, 2sbh.
double unfused_layer_bytes(const MachineOptions& options, int tensor);

// How many layers of one microbatch each a rank keeps at most, whatever it makes again.
int most_layers(const Program& program, const Layout& layout, const Partition& partition);

}  // namespace offramp
