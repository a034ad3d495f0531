#include "tensor/random.h"

#include <cmath>
#include <numbers>

namespace offramp {

PhiloxBlock philox4x32(PhiloxBlock c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0], b = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};  // Weyl sequences: golden ratio, sqrt(3) - 1
  }
  return c;
}

namespace {

// The use takes the index's top byte, so that no two (use, id, index) share a counter (indices stay below 2^56).
PhiloxBlock block(Key key, std::uint64_t index) {
  const std::uint64_t counter = index ^ (static_cast<std::uint64_t>(key.use) << 56);
  return philox4x32({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), static_cast<std::uint32_t>(key.id),
                     static_cast<std::uint32_t>(key.id >> 32)},
                    {static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32)});
}

std::uint64_t join(std::uint32_t low, std::uint32_t high) { return std::uint64_t{high} << 32 | low; }

}  // namespace

std::uint64_t bits(Key key, std::uint64_t index) {
  const PhiloxBlock words = block(key, index);
  return join(words[0], words[1]);
}

float uniform(Key key, std::uint64_t index) { return static_cast<float>(bits(key, index) >> 40) * 0x1p-24f; }

// Box and Muller's transform; of the pair only the cosine is used, so that every element stands alone.
float normal(Key key, std::uint64_t index) {
  const PhiloxBlock words = block(key, index);
  const double u = static_cast<double>((join(words[0], words[1]) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double v = static_cast<double>(join(words[2], words[3]) >> 11) * 0x1p-53;        // [0, 1)
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace offramp
