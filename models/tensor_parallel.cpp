#include "models/tensor_parallel.h"

#include <numeric>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kGranule = 16;       // rows that matrix kernels, and columns that others, take at once
constexpr std::int64_t kLargestBlock = 64;  // narrow enough for a choice of widths, wide enough for vectors

}  // namespace

VocabularyRange vocabulary_range(std::int64_t vocabulary, int part, int parts) {
  const std::int64_t granule = vocabulary >= 4 * kGranule * parts ? kGranule : 1;
  const auto begin = [&](std::int64_t i) { return i == parts ? vocabulary : vocabulary * i / parts / granule * granule; };
  return {begin(part), begin(part + 1) - begin(part)};
}

VocabularyRange vocabulary_part(VocabularyRange range, int part, int parts) {
  const VocabularyRange inner = vocabulary_range(range.count, part, parts);
  return {range.first + inner.first, inner.count};
}

std::int64_t block_of(std::int64_t count, int size, std::span<const std::int64_t> widths) {
  for (const std::int64_t width : widths) count = std::gcd(count, width);
  OFFRAMP_CHECK(count % size == 0, "[block_of] {} elements, and multiples of them, over {} ranks", count, size);
  if (size == 1) return count;
  const auto largest = [&](std::int64_t multiple) {  // that divides a rank's part; 0: none
    std::int64_t block = std::min(count / size, kLargestBlock) / multiple * multiple;
    while (block > 0 && count / size % block != 0) block -= multiple;
    return block;
  };
  const std::int64_t of_whole_vectors = largest(kGranule);
  return of_whole_vectors > 0 ? of_whole_vectors : largest(1);
}

}  // namespace offramp
