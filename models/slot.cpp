#include "models/slot.h"

#include "tensor/check.h"

namespace offramp {

Tensor Slot::pop() {
  OFFRAMP_CHECK(!saved_.empty(), "[slot] a backward pops more than its forward pushed (keeps: {})", keeps());
  const Tensor last = saved_.back();
  saved_.pop_back();
  return last;
}

Tensor Slot::peek(std::size_t below) const {
  OFFRAMP_CHECK(below < saved_.size(), "[slot] {} tensors below the last of {}", below, saved_.size());
  return saved_[saved_.size() - 1 - below];
}

}  // namespace offramp
