// Tensor parallelism: every matrix of a unit is split over the ranks of a group, and two exchanges a unit join what they compute
// (Shoeybi et al., Megatron-LM, 2019). With *sequence parallelism* (Korthikanti et al., 2022, section 4.2.2) each rank keeps only
// its part of the rows between split matrices: what else is as long as the residual stream is then divided too.
//
// The rule for indices is one for all: of `count` equal blocks, block j lives on rank j mod size. So the first k blocks of a logical
// axis are the first k / size blocks of every rank, and a narrower model is a prefix everywhere.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

#include "comm/group.h"

namespace offramp {

struct TensorParallel {
  Group group;
  bool sequence = false;

  int rank() const { return group.rank(); }
  int size() const { return group.size(); }
  bool splits() const { return size() > 1; }
  bool splits_rows() const { return sequence && splits(); }
  // Rows of the residual stream that this rank keeps of a microbatch of `tokens`, and the first of them.
  std::int64_t rows(std::int64_t tokens) const { return splits_rows() ? tokens / size() : tokens; }
  std::int64_t first_row(std::int64_t tokens) const { return splits_rows() ? rank() * rows(tokens) : 0; }
};

// Rows of a vocabulary that a rank holds. Any vocabulary divides: ranges differ by a granule, nothing is padded.
struct VocabularyRange {
  std::int64_t first = 0, count = 0;
  bool operator==(const VocabularyRange&) const = default;
};
VocabularyRange vocabulary_range(std::int64_t vocabulary, int part, int parts);
// One of `parts` parts of another range, within it.
VocabularyRange vocabulary_part(VocabularyRange range, int part, int parts);
inline VocabularyRange vocabulary_range(std::int64_t vocabulary, const TensorParallel& tensor) {
  return vocabulary_range(vocabulary, tensor.rank(), tensor.size());
}

// Elements of the blocks that an axis of `count` elements is dealt out in, at most 64, of whole vectors (16) where they divide a rank's
// part; count is a multiple of size. One rank: a single block. `widths`: what a narrower pass may use of the axis, each a multiple of size
// and of whole blocks a rank.
std::int64_t block_of(std::int64_t count, int size, std::span<const std::int64_t> widths = {});

}  // namespace offramp
