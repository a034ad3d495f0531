// The features that a job trains from (trainer/feature_cache.h): opened where they are, or made by the backbone, in the layout that the
// configuration names, over all samples of data.train and those of data.validation that are looked at.
//
//   JobFeatures features({config, world, activity, checkpoints.base(), run_id, options, beside}, {&train, &validation});
//   machine.give_taps([&](const MicrobatchInput& input, int unit, Tensor tap) { features.give(ctx, input, unit, tap); });
//   features.serve({.dataset = 1, .end = 64});       // what the inputs from now on are samples of
//
// Throws AgreedError: what is there is others', or damaged. While features are made nobody else makes them in that directory
// (trainer/run_lock.h); any number of jobs may train from them.
#pragma once
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "parallel/machine.h"
#include "trainer/config.h"
#include "trainer/feature_cache.h"
#include "trainer/frozen_base.h"

namespace offramp {

struct FeatureJob {
  const Config& config;  // with the layout that makes features
  Group world;
  Activity& activity;
  const FrozenBase& base;
  std::string run_id;
  DatasetOptions data;     // of all data, for a corpus in its own order
  std::size_t beside = 0;  // bytes that this rank has taken already
};

class JobFeatures {
 public:
  // Of which of the data that it was made with inputs are; from sample `end` on they are padding.
  struct Served {
    std::size_t dataset = 0;
    std::int64_t end = std::numeric_limits<std::int64_t>::max();
  };

  JobFeatures(const FeatureJob& job, std::vector<const Dataset*> data);

  void serve(const Served& served) { served_ = served; }
  void give(Context& ctx, const MicrobatchInput& input, int unit, Tensor tap) const;  // tap [samples * s, h]
  void prefetch(std::int64_t sample) const;
  const std::string& note() const { return note_; }

 private:
  void want(const Config& config);
  void want_set(const CorpusConfig& corpus, std::int64_t samples);
  void make(const FeatureJob& job);
  void make_set(const FeatureJob& job, std::size_t set, Machine& machine, FeatureWriter& writer) const;
  std::size_t tap_of(int unit) const;
  FeaturePlace place_of(std::int64_t sample, std::size_t tap) const;

  std::vector<const Dataset*> data_;
  Features wanted_;
  std::vector<std::vector<std::size_t>> sets_;  // of each of the data each corpus's
  std::unique_ptr<FeatureCache> cache_;
  Served served_;
  std::string note_;
};

// How many samples of a validation set are looked at.
std::int64_t validated_samples(const Config& config, const Dataset& data);

}  // namespace offramp
