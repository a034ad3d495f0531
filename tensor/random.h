// Counter-based random numbers: a value is a function of (key, index) and nothing else, so it depends on no layout, schedule,
// rank count or resume. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace offramp {

enum class Use : std::uint8_t { init, shuffle, dropout, layer, subnet };  // what a number is for: uses never share a sequence
struct Key {
  std::uint64_t seed = 0;
  Use use = Use::init;
  std::uint64_t id = 0;  // the hash of a logical name, or an epoch
};

std::uint64_t bits(Key key, std::uint64_t index);  // 64 random bits
float uniform(Key key, std::uint64_t index);       // in [0, 1)
float normal(Key key, std::uint64_t index);        // mean 0, deviation 1; index is the GLOBAL element
std::uint64_t hash(std::string_view text);         // FNV-1a, 64 bits

// The generator itself, section 3.3 of the paper: ten rounds over a counter.
using PhiloxBlock = std::array<std::uint32_t, 4>;
PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key);

}  // namespace offramp
