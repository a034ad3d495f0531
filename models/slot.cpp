#include "models/slot.h"

#include "tensor/check.h"

namespace offramp {

Tensor Slot::pop() {
  OFFRAMP_CHECK(!saved_.empty(), "[slot] a backward pops more than its forward pushed (keeps: {})", keeps());
  const Tensor last = saved_.back();
  saved_.pop_back();
  return last;
}

}  // namespace offramp
