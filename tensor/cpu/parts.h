// Takes consecutive parts of an operation's scratch, each on its own cache lines. Over null it only counts, so that the same lines
// tell how much to ask for.
#pragma once
#include <cstdint>

namespace offramp::cpu {

class Parts {
 public:
  explicit Parts(float* memory) : memory_(memory) {}
  float* take(std::int64_t floats) {
    float* part = memory_ ? memory_ + used_ : nullptr;
    used_ += (floats + 15) / 16 * 16;
    return part;
  }
  std::int64_t used() const { return used_; }

 private:
  float* memory_;
  std::int64_t used_ = 0;
};

}  // namespace offramp::cpu
