#include "trainer/loader.h"

namespace offramp {

Loader::Loader(const Dataset& data, const LoaderOptions& options) : data_(data), options_(options) {
  const auto s = static_cast<std::size_t>(options.sequence_length);
  tokens_.resize(s + 1);
  starts_.resize(s);
  if (data.has_loss_mask()) mask_.resize(s);
}

std::vector<std::int64_t> Loader::fill(std::int64_t first, std::int64_t end, std::span<MicrobatchInput> inputs) {
  std::vector<std::int64_t> counted(inputs.size(), 0);
  for (std::size_t m = 0; m < inputs.size(); ++m) {
    inputs[m].first_sample = first_sample(first, m);
    for (std::int64_t i = 0; i < options_.micro_batch_size; ++i) {
      const std::int64_t sample = first_sample(first, m) + i;
      counted[m] += fill_sample(sample, sample >= end, inputs[m], i * options_.sequence_length);
    }
  }
  return counted;
}

void Loader::prefetch(std::int64_t first, std::size_t microbatches) const {
  for (std::size_t m = 0; m < microbatches; ++m) data_.prefetch(first_sample(first, m), options_.micro_batch_size);
}

std::int64_t Loader::first_sample(std::int64_t first, std::size_t microbatch) const {
  const std::int64_t number = static_cast<std::int64_t>(microbatch) * options_.data_size + options_.data_rank;
  return first + number * options_.micro_batch_size;
}

std::int64_t Loader::fill_sample(std::int64_t sample, bool padding, const MicrobatchInput& input, std::int64_t row) {
  const std::int64_t s = options_.sequence_length;
  std::int32_t* ids = input.ids.as<std::int32_t>() + row;
  std::int32_t* labels = input.labels.as<std::int32_t>() + row;
  if (!padding) data_.read(sample, tokens_, mask_);
  std::int64_t counted = 0;
  for (std::int64_t i = 0; i < s; ++i) {
    const bool counts = !padding && (mask_.empty() || mask_[static_cast<std::size_t>(i)] != 0);
    ids[i] = padding ? 0 : tokens_[static_cast<std::size_t>(i)];
    labels[i] = counts ? tokens_[static_cast<std::size_t>(i) + 1] : -1;
    counted += counts ? 1 : 0;
  }
  if (!input.sequences.first_key.defined()) return counted;
  if (!padding) data_.document_starts(sample, starts_);
  std::int32_t* first_key = input.sequences.first_key.as<std::int32_t>() + row;
  std::int32_t* positions = input.sequences.positions.as<std::int32_t>() + row;
  for (std::int64_t i = 0; i < s; ++i) {
    first_key[i] = padding ? 0 : starts_[static_cast<std::size_t>(i)];
    positions[i] = static_cast<std::int32_t>(i) - first_key[i];
  }
  return counted;
}

}  // namespace offramp
