// A keyed permutation of [0, size) that is computed, not stored: a Feistel network over the next even number of bits, walked
// until it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). O(1) memory, about a microsecond.
//
//   Permutation order(1000, Key{seed, Use::shuffle, epoch});
//   order(0);                                          // where the epoch starts reading
#pragma once
#include <cstdint>

#include "tensor/random.h"

namespace offramp {

class Permutation {
 public:
  Permutation(std::int64_t size, Key key);
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t scramble(std::uint64_t x) const;

  std::uint64_t size_;
  Key key_;
  int half_bits_ = 1;
};

}  // namespace offramp
