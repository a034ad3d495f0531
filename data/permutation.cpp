#include "data/permutation.h"

#include "tensor/check.h"

namespace offramp {
namespace {
constexpr std::uint64_t kRounds = 8;  // four make a strong cipher of wide halves; narrow ones need more to mix
}

Permutation::Permutation(std::int64_t size, Key key) : size_(static_cast<std::uint64_t>(size)), key_(key) {
  OFFRAMP_CHECK(size > 0, "a permutation of {} elements", size);
  while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < size_) ++half_bits_;
}

std::int64_t Permutation::operator()(std::int64_t index) const {
  auto x = static_cast<std::uint64_t>(index);
  OFFRAMP_CHECK(x < size_, "element {} of a permutation of {}", index, size_);
  do x = scramble(x);
  while (x >= size_);
  return static_cast<std::int64_t>(x);
}

std::uint64_t Permutation::scramble(std::uint64_t x) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = x >> half_bits_, right = x & mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const std::uint64_t next = left ^ (bits(key_, (round << 32) | right) & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

}  // namespace offramp
