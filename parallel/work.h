// What every action of a job computes, in FLOPs, from the shapes of its tensors alone: equal on every rank, on every machine. Schedules
// and partitions that all ranks must agree on are made from it.
#pragma once
#include "parallel/placement.h"
#include "parallel/simulate.h"

namespace offramp {

// FLOPs of one token's way through a unit, or a head, forward; each gradient of it (input's, weights') costs as much again.
double unit_flops(Model& model, int unit, std::int64_t sequence_length);
double head_flops(Model& model, Head& head, std::int64_t sequence_length);
double output_flops(Head& head);  // of head_flops, those of the output matrix

// "Seconds" at 1 FLOP a second, of one microbatch. Messages take none.
Times work_times(Model& model, const Partition& partition, const Layout& layout, std::int64_t micro_batch_size,
                 std::int64_t sequence_length);

}  // namespace offramp
