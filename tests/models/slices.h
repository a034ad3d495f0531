// Where a subnet's tensors lie in those of the whole model, written out once more and another way than by models/: from the sizes of
// both, element by element.
#pragma once
#include <map>

#include "models/model.h"

namespace offramp::testing {

class Slices {
 public:
  Slices(const ModelConfig& whole, const Subnet& subnet, const std::vector<ExitSpec>& exits);
  // For every element of the subnet's logical tensor, the number of the whole's that it is.
  const std::vector<std::int64_t>& of(const std::string& name) const { return tensors_.at(name).index; }
  const Shape& whole_shape(const std::string& name) const { return tensors_.at(name).whole; }
  bool holds(const std::string& name, std::int64_t element) const { return tensors_.at(name).inside[static_cast<std::size_t>(element)]; }

 private:
  struct Slice {
    Shape whole;
    std::vector<std::int64_t> index;
    std::vector<bool> inside;
  };
  Slice slice_of(const std::string& name, const Shape& whole, const Shape& small) const;

  std::int64_t head_ = 0, queries_ = 0, fewer_ = 0;  // size of a head; query heads of a group, and of the subnet's
  std::map<std::string, Slice> tensors_;
};

}  // namespace offramp::testing
