// The generator of random.h written inline, for loops that draw many numbers at once. Words of 32 bits are held in 64, so that a
// vectorised loop multiplies without moving anything from lane to lane.
#pragma once
#include "tensor/random.h"

namespace offramp {

struct PhiloxWords {
  std::uint64_t w0, w1, w2, w3;
};

static inline PhiloxWords philox_rounds(PhiloxWords c, std::uint32_t key0, std::uint32_t key1) {
  constexpr std::uint64_t kWord = 0xFFFFFFFF;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c.w0, b = std::uint64_t{0xCD9E8D57} * c.w2;
    c = {b >> 32 ^ c.w1 ^ key0, b & kWord, a >> 32 ^ c.w3 ^ key1, a & kWord};
    key0 += 0x9E3779B9, key1 += 0xBB67AE85;  // Weyl sequences: golden ratio, sqrt(3) - 1
  }
  return c;
}

// The use takes the index's top byte, so that no two (use, id, index) share a counter (indices stay below 2^56).
static inline PhiloxWords philox_words(Key key, std::uint64_t index) {
  const std::uint64_t counter = index ^ (static_cast<std::uint64_t>(key.use) << 56);
  return philox_rounds({counter & 0xFFFFFFFF, counter >> 32, key.id & 0xFFFFFFFF, key.id >> 32}, static_cast<std::uint32_t>(key.seed),
                       static_cast<std::uint32_t>(key.seed >> 32));
}

// The upper 24 of bits(key, index): uniform() in units of 2^-24.
static inline std::uint64_t uniform_units(Key key, std::uint64_t index) { return philox_words(key, index).w1 >> 8; }

}  // namespace offramp
