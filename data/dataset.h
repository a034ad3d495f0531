// Samples for training and validation, read from token files (indexed.h) by their global number.
//
// Sample i of a corpus is tokens [i·s, i·s + s] of its concatenated documents, s the sequence length: the first s are inputs,
// the last s targets. A corpus has N = floor((tokens - 1) / s) samples. Its sample j lies in epoch floor(j / N) at position
// j mod N, permuted by (seed, epoch) when shuffling. With one corpus j is the global number g; with several, corpora.h says
// which corpus g reads and which of its samples. Every method depends on its arguments alone: any rank may read any sample.
//
//   Dataset data({.corpora = {{"runs/data/docs_train"}}, .sequence_length = 256, .vocab_size = 8192, .seed = 1234});
//   std::vector<std::int32_t> tokens(257);
//   data.read(g, tokens, {});
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/corpora.h"
#include "data/indexed.h"

namespace offramp {

struct Corpus {
  std::string path;  // a PREFIX of PREFIX.bin and PREFIX.idx
  double weight = 1;
};

struct DatasetOptions {
  std::vector<Corpus> corpora;
  std::string loss_mask;  // a PREFIX with one value a token, 0: not counted as a target. Empty: all count
  std::int64_t sequence_length = 0, vocab_size = 0;
  std::uint64_t seed = 0;
  bool shuffle = true;
  std::optional<std::int32_t> end_token;  // ends documents too, beside the boundaries that the .idx file names
  std::function<void()> alive;            // called now and then while the files are checked, see indexed.h
};

class Dataset {
 public:
  explicit Dataset(const DatasetOptions& options);  // fail(Exit::data): the files; fail(Exit::configuration): the options

  std::int64_t samples_per_epoch() const { return samples_; }  // of all corpora together
  std::int64_t tokens() const { return tokens_; }
  std::int64_t samples_of(std::size_t corpus) const { return samples_of(*streams_[corpus]); }
  bool has_loss_mask() const { return mask_ != nullptr; }

  // Global sample g: its s + 1 tokens; with a loss mask, mask[i] is 1 where target i counts (s values, else empty).
  void read(std::int64_t g, std::span<std::int32_t> tokens, std::span<std::uint8_t> mask) const;

  // Which sample of which corpus global sample g is: tokens from index * s on.
  struct Sample {
    std::size_t corpus = 0;
    std::int64_t index = 0;
  };
  Sample sample(std::int64_t g) const;

  // Global samples [first, first + count) will be read soon: starts to bring their pages from disk, does not wait.
  void prefetch(std::int64_t first, std::int64_t count) const;

  // first_key[i], s values: where in the sample the document of input i begins, the first key it may attend to. A document
  // that began before the sample has 0; an end token belongs to the document it ends.
  void document_starts(std::int64_t g, std::span<std::int32_t> first_key) const;

 private:
  struct Place {
    const IndexedTokens* stream;
    std::int64_t first;  // the sample's first token
  };
  Place place(std::int64_t g) const;
  std::int64_t samples_of(const IndexedTokens& stream) const { return (stream.tokens() - 1) / options_.sequence_length; }
  void check_options() const;

  DatasetOptions options_;
  std::vector<std::unique_ptr<IndexedTokens>> streams_;
  std::unique_ptr<IndexedTokens> mask_;
  std::unique_ptr<Corpora> blend_;
  std::int64_t samples_ = 0, tokens_ = 0;
};

}  // namespace offramp
