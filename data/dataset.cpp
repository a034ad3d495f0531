#include "data/dataset.h"

#include "data/permutation.h"
#include "tensor/check.h"

namespace offramp {

Dataset::Dataset(const DatasetOptions& options) : options_(options) {
  check_options();
  std::vector<double> weights;
  for (const Corpus& corpus : options_.corpora) {
    const auto& stream = *streams_.emplace_back(std::make_unique<IndexedTokens>(corpus.path, options_.alive));
    if (samples_of(stream) == 0)
      fail(Exit::data,
           "{}.bin: offset {}: {} tokens are fewer than one sample of {} and its last target; use more text or a shorter "
           "training.sequence_length",
           corpus.path, stream.tokens() * static_cast<std::int64_t>(bytes_of(stream.type())), stream.tokens(), options_.sequence_length);
    weights.push_back(corpus.weight);
    samples_ += samples_of(stream);
    tokens_ += stream.tokens();
  }
  blend_ = std::make_unique<Corpora>(std::move(weights));
  if (options_.loss_mask.empty()) return;
  mask_ = std::make_unique<IndexedTokens>(options_.loss_mask, options_.alive);
  if (mask_->tokens() != tokens_)
    fail(Exit::data, "{}.bin: offset {}: the loss mask has {} values, {} has {} tokens; build one value a token", options_.loss_mask,
         mask_->tokens() * static_cast<std::int64_t>(bytes_of(mask_->type())), mask_->tokens(), options_.corpora[0].path, tokens_);
}

void Dataset::check_options() const {
  OFFRAMP_CHECK(options_.sequence_length > 0, "a sequence length of {}", options_.sequence_length);
  OFFRAMP_CHECK(options_.vocab_size > 0, "a vocabulary of {}", options_.vocab_size);
  if (options_.corpora.empty())
    fail(Exit::configuration, "data names no corpus; set data.train to a PREFIX that `offramp data build` wrote");
  if (!options_.loss_mask.empty() && options_.corpora.size() > 1)
    fail(Exit::configuration, "data.loss_mask {} goes with one corpus, {} are named; drop it or train on one", options_.loss_mask,
         options_.corpora.size());
}

Dataset::Sample Dataset::sample(std::int64_t g) const {
  OFFRAMP_CHECK(g >= 0, "sample {}", g);
  const auto [corpus, index] = blend_->at(g);
  const std::int64_t samples = samples_of(corpus), epoch = index / samples;
  std::int64_t position = index % samples;
  if (options_.shuffle) position = Permutation(samples, Key{options_.seed, Use::shuffle, static_cast<std::uint64_t>(epoch)})(position);
  return {corpus, position};
}

Dataset::Place Dataset::place(std::int64_t g) const {
  const auto [corpus, index] = sample(g);
  return {streams_[corpus].get(), index * options_.sequence_length};
}

void Dataset::read(std::int64_t g, std::span<std::int32_t> tokens, std::span<std::uint8_t> mask) const {
  OFFRAMP_CHECK(std::ssize(tokens) == options_.sequence_length + 1, "{} tokens for a sequence of {}", tokens.size(),
                options_.sequence_length);
  const Place at = place(g);
  at.stream->read(at.first, tokens, options_.vocab_size);
  if (!mask_) return;
  OFFRAMP_CHECK(std::ssize(mask) == options_.sequence_length, "{} mask values for a sequence of {}", mask.size(), options_.sequence_length);
  mask_->read_nonzero(at.first + 1, mask);  // targets stand one further than inputs
}

void Dataset::prefetch(std::int64_t first, std::int64_t count) const {
  for (std::int64_t g = first; g < first + count; ++g) {
    const Place at = place(g);
    at.stream->prefetch(at.first, options_.sequence_length + 1);
    if (mask_) mask_->prefetch(at.first + 1, options_.sequence_length);
  }
}

void Dataset::document_starts(std::int64_t g, std::span<std::int32_t> first_key) const {
  OFFRAMP_CHECK(std::ssize(first_key) == options_.sequence_length, "{} values for a sequence of {}", first_key.size(),
                options_.sequence_length);
  const auto [stream, first] = place(g);
  std::vector<std::int32_t> tokens;
  if (options_.end_token) {
    tokens.resize(first_key.size());
    stream->read(first, tokens, options_.vocab_size);
  }
  std::int64_t document = stream->document_of(first), end = stream->document_begin(document + 1), start = 0;
  for (std::int64_t i = 0; i < std::ssize(first_key); ++i) {
    while (first + i >= end) {  // more than once over empty documents
      start = i;
      end = stream->document_begin(++document + 1);
    }
    first_key[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(start);
    if (options_.end_token && tokens[static_cast<std::size_t>(i)] == *options_.end_token) start = i + 1;
  }
}

}  // namespace offramp
