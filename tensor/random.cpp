#include "tensor/random.h"

#include <cmath>
#include <numbers>

#include "tensor/philox.h"

namespace offramp {

PhiloxBlock philox4x32(PhiloxBlock c, std::array<std::uint32_t, 2> key) {
  const PhiloxWords w = philox_rounds({c[0], c[1], c[2], c[3]}, key[0], key[1]);
  return {static_cast<std::uint32_t>(w.w0), static_cast<std::uint32_t>(w.w1), static_cast<std::uint32_t>(w.w2),
          static_cast<std::uint32_t>(w.w3)};
}

std::uint64_t bits(Key key, std::uint64_t index) {
  const PhiloxWords words = philox_words(key, index);
  return words.w1 << 32 | words.w0;
}

float uniform(Key key, std::uint64_t index) { return static_cast<float>(uniform_units(key, index)) * 0x1p-24f; }

// Box and Muller's transform; of the pair only the cosine is used, so that every element stands alone.
float normal(Key key, std::uint64_t index) {
  const PhiloxWords words = philox_words(key, index);
  const double u = static_cast<double>(((words.w1 << 32 | words.w0) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double v = static_cast<double>((words.w3 << 32 | words.w2) >> 11) * 0x1p-53;        // [0, 1)
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace offramp
