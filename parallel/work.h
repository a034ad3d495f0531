// What every action of a job computes, in FLOPs, from the model's sizes alone: equal on every rank, on every machine. Schedules and
// partitions that all ranks must agree on are made from it.
#pragma once
#include "parallel/placement.h"
#include "parallel/simulate.h"

namespace offramp {

// Of one token: its way forward, the gradient of the input, and those of the weights.
struct PassFlops {
  double forward = 0, input = 0, weight = 0;
  double sum() const { return forward + input + weight; }
  PassFlops& operator+=(const PassFlops& other);
};

struct LayerFlops {
  PassFlops attention, mlp;
  double scores = 0;  // of attention's forward, what is no product with a matrix
};
LayerFlops layer_flops(const ModelConfig& model, std::int64_t sequence_length);
PassFlops body_flops(HeadKind head, const LayerFlops& layer);  // of a head, below its output matrix
PassFlops output_flops(const ModelConfig& model);

struct WorkOptions {
  std::int64_t micro_batch_size = 1, sequence_length = 0;
  bool attention_again = false;  // backwards make it again: selective recompute
  std::vector<Subnet> passes{};  // what each of the layout's runs; empty: the whole
};
// The unit behind the last that a pass runs; `units`: of the whole model.
int end_of_pass(int pass, int units, const Layout& layout);
// "Seconds" at 1 FLOP a second, of one microbatch. Messages take none.
Times work_times(const Model& model, const Partition& partition, const Layout& layout, const WorkOptions& options);

}  // namespace offramp
