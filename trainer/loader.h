// Loader: puts the samples of a step, or of a validation round, into a machine's input buffers.
//
// Step k (from 0) consumes global samples [k G, (k+1) G). Microbatch m of data rank d holds samples first + (m D + d) b ... + b - 1,
// b the micro-batch size, D data ranks: the same samples a step at every layout. Partial microbatches hold those that follow, and the next
// step begins behind them.
#pragma once
#include "data/dataset.h"
#include "parallel/interpreter.h"

namespace offramp {

struct LoaderOptions {
  std::int64_t micro_batch_size = 1, sequence_length = 0;
  int data_rank = 0, data_size = 1;
};

class Loader {
 public:
  Loader(const Dataset& data, const LoaderOptions& options);
  // Fills `inputs` with samples from `first` on. Samples at or after `end` are padding: no label counts.
  // Returns how many targets count in each.
  std::vector<std::int64_t> fill(std::int64_t first, std::int64_t end, std::span<MicrobatchInput> inputs);
  // Asks the system to read ahead what fill(first, ..., inputs) will want for `microbatches` inputs.
  void prefetch(std::int64_t first, std::size_t microbatches) const;
  // Those samples.
  template <class F>
  void each_sample(std::int64_t first, std::size_t microbatches, F&& visit) const {
    for (std::size_t m = 0; m < microbatches; ++m)
      for (std::int64_t i = 0; i < options_.micro_batch_size; ++i) visit(first_sample(first, m) + i);
  }

 private:
  std::int64_t first_sample(std::int64_t first, std::size_t microbatch) const;
  std::int64_t fill_sample(std::int64_t sample, bool padding, const MicrobatchInput& input, std::int64_t row);

  const Dataset& data_;
  LoaderOptions options_;
  std::vector<std::int32_t> tokens_, starts_;
  std::vector<std::uint8_t> mask_;
};

}  // namespace offramp
