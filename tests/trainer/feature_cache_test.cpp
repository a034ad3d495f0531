#include "trainer/feature_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "models/model.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

// Two corpora, three taps, [3, 4] a sample.
Features features(DType type) {
  return {.of = {{"backbone", "b"}, {"training.precision", "fp32"}},
          .sequence_length = 3,
          .hidden_size = 4,
          .type = type,
          .taps = {2, 5, kFinalTap},
          .sets = {{"one", "1", 5}, {"two", "2", 3}}};
}

float value(const FeaturePlace& place, std::int64_t i) {
  return static_cast<float>(place.set * 1000 + place.tap * 100) + static_cast<float>(place.sample * 12 + i) / 3;
}

class FeatureCacheTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(directory_); }
  void TearDown() override { fs::remove_all(directory_); }

  void write(const Features& of, DType from = DType::f32) {
    FeatureWriter::prepare(directory_, of);
    FeatureWriter writer(directory_, of);
    for (FeaturePlace place; place.set < of.sets.size(); ++place.set)
      for (place.tap = 0; place.tap < of.taps.size(); ++place.tap)
        for (place.sample = of.sets[place.set].samples - 1; place.sample >= 0; --place.sample) {  // in any order
          std::array<float, 12> values{};
          std::array<bf16, 12> rounded{};
          for (std::size_t i = 0; i < 12; ++i) values[i] = value(place, static_cast<std::int64_t>(i)), rounded[i] = bf16(values[i]);
          void* data = from == DType::bf16 ? static_cast<void*>(rounded.data()) : values.data();
          writer.write(ctx_, place, Tensor(data, of.shape(), from));
        }
    writer.finish();
    EXPECT_FALSE(FeatureCache::is_there(directory_));
    FeatureWriter::publish(directory_, of);
    EXPECT_TRUE(FeatureCache::is_there(directory_));
  }

  std::array<float, 12> read(const FeatureCache& cache, const FeaturePlace& place) {
    std::array<float, 12> values{};
    cache.read(ctx_, place, Tensor(values.data(), {3, 4}, DType::f32));
    return values;
  }

  std::string refusal(const Features& wanted) {
    try {
      FeatureCache(directory_, wanted);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Exit::data);
      EXPECT_NE(std::string(error.what()).find("; delete it and the features are made again, or name another directory"),
                std::string::npos);
      return error.what();
    }
    return "";
  }

  const std::string directory_ = (fs::temp_directory_path() / fmt::format("offramp-features-{}", ::getpid())).string();
  Context ctx_;
};

TEST_F(FeatureCacheTest, GivesWhatWasWritten) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const DType from : {DType::f32, DType::bf16}) {
      fs::remove_all(directory_);
      const Features all = features(type);
      write(all, from);
      const FeatureCache cache(directory_, all);
      for (const FeaturePlace& place : {FeaturePlace{0, 0, 0}, {0, 1, 4}, {0, 2, 3}, {1, 0, 2}, {1, 1, 1}, {1, 2, 0}})
        for (std::int64_t i = 0; const float x : read(cache, place)) {
          const float written = value(place, i++);
          EXPECT_EQ(x, type == DType::f32 && from == DType::f32 ? written : static_cast<float>(bf16(written)));
        }
    }
}

TEST_F(FeatureCacheTest, ServesWhoNeedsLessOfIt) {
  write(features(DType::f32));
  Features less = features(DType::f32);
  less.taps = {5};
  less.sets = {{"another name", "2", 2}};
  const FeatureCache cache(directory_, less);
  EXPECT_EQ(read(cache, {0, 0, 1})[7], value({1, 1, 1}, 7));
}

TEST_F(FeatureCacheTest, RefusesWhoNeedsOthers) {
  write(features(DType::f32));
  Features other = features(DType::f32);
  other.of["backbone"] = "c";
  EXPECT_NE(refusal(other).find("holds features of another job: backbone is c here, was b;"), std::string::npos);
  other = features(DType::f32);
  other.of.erase("training.precision");
  EXPECT_NE(refusal(other).find("training.precision was fp32;"), std::string::npos);
  other = features(DType::f32);
  other.taps.push_back(3);
  EXPECT_NE(refusal(other).find("has no features of layer-2-attention;"), std::string::npos);
  other = features(DType::f32);
  other.sets[1].samples = 4;
  EXPECT_NE(refusal(other).find("has features of 3 samples of two, this job needs 4;"), std::string::npos);
  other.sets[1].identity = "3";
  EXPECT_NE(refusal(other).find("has no features of two as that is now;"), std::string::npos);
}

// Who learns from the final head finds nothing where nobody did; the other way round it is one file too many.
TEST_F(FeatureCacheTest, SaysWhetherItHasWhatTheFinalHeadReads) {
  Features without = features(DType::f32);
  without.taps = {2, 5};
  write(without);
  EXPECT_NE(refusal(features(DType::f32)).find("has no features of final-head;"), std::string::npos);
  fs::remove_all(directory_);
  write(features(DType::f32));
  const FeatureCache cache(directory_, without);
  EXPECT_EQ(read(cache, {1, 1, 2})[3], value({1, 1, 2}, 3));
}

// Every byte of every file: it is refused, or gives what was written.
TEST_F(FeatureCacheTest, NoDamagedByteIsTrained) {
  Features all = features(DType::f32);
  all.sets.pop_back(), all.sets[0].samples = 1, all.taps = {2};
  write(all);
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 4);
      std::ofstream(entry.path(), std::ios::binary) << damaged;
      try {
        const FeatureCache cache(directory_, all);
        EXPECT_EQ(read(cache, {0, 0, 0})[0], value({0, 0, 0}, 0));
        EXPECT_EQ(entry.path().extension(), ".json") << i;  // a blank between two words
      } catch (const Error& error) {
        EXPECT_EQ(error.code, Exit::data) << error.what();
      }
    }
    std::ofstream(entry.path(), std::ios::binary) << bytes;
  }
}

}  // namespace
}  // namespace offramp
