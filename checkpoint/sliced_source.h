// SlicedSource: of a model's tensors what a narrower subnet has (models/subnet.h): the first rows and columns of each, as a model of
// its own. Of every layer and every exit: SubnetSource cuts the depth.
//
//   SlicedSource narrow(weights, model, exits, {.intermediate_size = 172});
//
// Rows of q_proj, and columns of o_proj, are the first so many query heads of each of the first key-value groups; every other axis is a
// prefix.
#pragma once
#include <map>
#include <span>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/subnet.h"

namespace offramp {

// What is used of an axis: the first `used` of the `stored` elements of each of its first groups.
struct AxisSlice {
  std::int64_t groups = 1, used = 0, stored = 0;
};

class SlicedSource : public TensorSource {
 public:
  // `whole` must outlive this, and have the tensors of `model` and `exits` (checkpoint/check_tensors.h).
  SlicedSource(TensorSource& whole, const ModelConfig& model, std::span<const ExitSpec> exits, const Subnet& subnet);

  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override;

 private:
  struct Slice {
    Shape whole;
    std::int64_t width = 0;  // columns of the slice
    AxisSlice rows, columns;
  };
  const Slice& slice_of(const std::string& name) const;
  void read_slice(const std::string& name, const Slice& slice, const Box& box, float* out);

  TensorSource& whole_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, Slice> slices_;
  std::vector<float> part_;
};

}  // namespace offramp
