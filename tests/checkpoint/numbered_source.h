// A TensorSource whose elements follow from their tensor's name and their place, and the check that another source has the same.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "checkpoint/export_entry.h"
#include "checkpoint/huggingface.h"
#include "checkpoint/tensor_source.h"
#include "tensor/random.h"

namespace offramp::testing {

// 12 bits each, which neither fp16 nor bf16 holds.
inline float numbered(const std::string& name, std::int64_t i) {
  return static_cast<float>((hash(name) % 4093 + static_cast<std::uint64_t>(i) * 2654435761u) % 4093) / 1024 - 2;
}

class NumberedSource : public TensorSource {
 public:
  explicit NumberedSource(std::vector<TensorEntry> entries) : entries_(std::move(entries)) {}
  NumberedSource(const ModelConfig& model, std::span<const ExitSpec> exits) : entries_(logical_entries(backbone_entries(model))) {
    for (const TensorEntry& entry : logical_entries(exit_entries(model, exits))) entries_.push_back(entry);
  }
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override {
    const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const TensorEntry& entry) { return entry.name == name; });
    ASSERT_NE(it, entries_.end()) << name;
    ASSERT_TRUE(first >= 0 && first + count <= it->shape.elements()) << name << " " << first << " + " << count;
    for (std::int64_t i = 0; i < count; ++i) out[i] = numbered(name, first + i);
  }

 private:
  std::vector<TensorEntry> entries_;
};

// Every tensor of `expected` is in `source`, and nothing else, with numbered values rounded to a number format of so many bits; read
// whole, and in parts of odd sizes.
inline void expect_numbered(TensorSource& source, std::vector<TensorEntry> expected, int bits = 24) {
  auto found = source.entries();
  const auto by_name = [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; };
  std::sort(found.begin(), found.end(), by_name);
  std::sort(expected.begin(), expected.end(), by_name);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < found.size(); ++k) {
    const auto& [name, shape] = found[k];
    EXPECT_EQ(name, expected[k].name);
    EXPECT_EQ(shape, expected[k].shape) << name;
    const std::int64_t elements = shape.elements();
    std::vector<float> whole(static_cast<std::size_t>(elements)), parts(whole.size());
    source.read(name, 0, elements, whole.data());
    for (std::int64_t first = 0, count = 1; first < elements; first += count, count = std::min(elements - first, count * 3 + 2)) {
      count = std::min(count, elements - first);
      source.read(name, first, count, parts.data() + first);
    }
    EXPECT_EQ(whole, parts) << name;
    const float half =
        bits == 24 ? 0.0f : std::ldexp(1.0f, -bits);  // values are below 2: half a unit of their last bit, where it is rounded
    for (std::int64_t i = 0; i < elements; ++i) {
      const float exact = numbered(name, i);
      ASSERT_LE(std::fabs(whole[static_cast<std::size_t>(i)] - exact), half) << name << " element " << i;
    }
  }
}

}  // namespace offramp::testing
