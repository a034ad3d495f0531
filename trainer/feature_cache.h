// FeatureCache: what exits read of a frozen backbone, in files: of each sample of each set of data, each tap's [s, h]; and what the final
// head reads, if exits learn from it. Samples have their number in the set, so that no order, seed or epoch matters.
//
//   DIR/cache.json                     whose features these are; written last
//   DIR/building                       while they are made
//   DIR/set-0.layer-3.features         [samples, s, h], fp32 or bf16, as this processor has them; set-0.layer-3-attention: below the MLP,
//                                      set-0.final-head: of kFinalTap
//   DIR/set-0.layer-3.sums             [samples] u64: XXH3 of each sample's bytes
//
//   if (FeatureCache::is_there(directory)) ...
//   FeatureWriter::prepare(directory, wanted);       // once; then on every rank that writes
//   FeatureWriter writer(directory, wanted);
//   writer.write(ctx, {set, tap, sample}, features);
//   writer.finish();
//   FeatureWriter::publish(directory, wanted);       // once, after all have finished
//   FeatureCache cache(directory, wanted);
//   cache.read(ctx, {set, tap, sample}, features);
//
// Nothing that is read is trusted. Throws Error(Exit::data) where the features are others' or damaged, and says what to do.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace offramp {

struct FeatureSet {
  std::string path;      // for people
  std::string identity;  // of its files
  std::int64_t samples = 0;
};

// What a job needs.
struct Features {
  std::map<std::string, std::string> of;  // all that they depend on, by what it is called: "training.precision"
  std::int64_t sequence_length = 0, hidden_size = 0;
  DType type = DType::f32;
  std::vector<int> taps;  // units, or kFinalTap
  std::vector<FeatureSet> sets;

  Shape shape() const { return {sequence_length, hidden_size}; }
  std::size_t bytes() const;  // of all files
  std::size_t sample_bytes() const { return static_cast<std::size_t>(shape().elements()) * size_of(type); }
};

// One sample's of one tap: positions in Features, and a sample's number.
struct FeaturePlace {
  std::size_t set = 0, tap = 0;
  std::int64_t sample = 0;
};

class FeatureCache {
 public:
  static bool is_there(const std::string& directory);

  FeatureCache(const std::string& directory, const Features& wanted);
  void read(Context& ctx, const FeaturePlace& place, Tensor to) const;  // to [s, h] of any type
  void prefetch(const FeaturePlace& place) const;

 private:
  struct File {
    std::unique_ptr<MappedFile> features, sums;
  };
  const File& file(const FeaturePlace& place) const { return files_[place.set * wanted_.taps.size() + place.tap]; }

  std::string directory_;
  Features wanted_;
  std::vector<File> files_;  // of each set each tap
};

class FeatureWriter {
 public:
  // Makes the directory and its files, and begins again where others were not finished.
  static void prepare(const std::string& directory, const Features& features);
  static void publish(const std::string& directory, const Features& features);

  FeatureWriter(const std::string& directory, const Features& features);
  ~FeatureWriter();
  FeatureWriter(const FeatureWriter&) = delete;
  FeatureWriter& operator=(const FeatureWriter&) = delete;

  void write(Context& ctx, const FeaturePlace& place, Tensor from);  // [s, h] of any type
  void finish();                                                     // all of it is on disk

 private:
  struct File {
    std::string path;
    int descriptor = -1;
    std::size_t unsynced = 0;  // bytes
  };
  void write_at(File& file, std::size_t offset, const void* data, std::size_t bytes);

  Features features_;
  std::vector<std::byte> sample_;
  std::vector<File> files_;  // of each set each tap: features, sums
};

}  // namespace offramp
