// What the forward and the backward of attention share: how one (sequence, group) is packed, and the scores of a block of queries.
// Queries go in blocks of kQueryRows rows against all keys a block can see, so scratch is kQueryRows x length, whatever n is.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/cpu/parts.h"
#include "tensor/cpu/products.h"
#include "tensor/cpu/tile.h"

namespace offramp::cpu {

inline constexpr std::int64_t kQueryRows = 64;  // of a block; a multiple of kTileRows
static_assert(kQueryRows % kLanes == 0);

// Sizes padded to whole vectors.
struct Padded {
  std::int64_t length, size;
  std::int64_t pitch;  // of rows that run over keys: one vector more, because a power of two would hit few cache sets
  explicit Padded(const AttentionShape& a)
      : length(round_up(a.length, 2 * kLanes)), size(round_up(a.size, kLanes)), pitch(length + kLanes) {}
};

// Rows of one head within a token-major buffer.
struct Rows {
  const float* data;
  std::int64_t stride;
};

// to[count rounded up, padded] = scale * from[count, size], zeros elsewhere.
static inline void pack(float* to, Rows from, std::int64_t count, std::int64_t padded_count, std::int64_t size, std::int64_t padded,
                        float scale) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t c = 0; c < size; ++c) to[i * padded + c] = scale * from.data[i * from.stride + c];
    std::fill(to + i * padded + size, to + (i + 1) * padded, 0.0f);
  }
  std::fill(to + count * padded, to + padded_count * padded, 0.0f);
}

// to[size, pitch] = the transpose of a packed from[length, size]; columns from padded.length on are left alone and never used.
static inline void transpose_packed(float* to, const float* from, const Padded& padded) {
  for (std::int64_t j = 0; j < padded.length; j += kLanes) {
    for (std::int64_t c = 0; c < padded.size; c += kLanes) {
      Floats rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = load(from + (j + r) * padded.size + c);
      transpose(rows);
      for (int r = 0; r < kLanes; ++r) store(to + (c + r) * padded.pitch + j, rows[r]);
    }
  }
}

// One block: query rows first_row.. of a sequence and the keys they may see, from first_column (a multiple of kLanes) on.
struct Block {
  std::int64_t first_row, rows, first_column;
  std::int64_t end() const { return first_row + rows; }
};

static inline std::int64_t first_key_at(const std::int32_t* first_key, std::int64_t row) {
  return first_key ? std::clamp<std::int64_t>(first_key[row], 0, row) : 0;
}

static inline Block block_at(std::int64_t first_row, std::int64_t length, const std::int32_t* first_key) {
  Block b = {.first_row = first_row, .rows = std::min(kQueryRows, length - first_row), .first_column = length};
  for (std::int64_t i = first_row; i < b.end(); ++i) b.first_column = std::min(b.first_column, first_key_at(first_key, i));
  b.first_column = b.first_column / kLanes * kLanes;
  return b;
}

// The end of the keys that the tile of rows with row i may see.
static inline std::int64_t diagonal(const Block& b, std::int64_t i) { return b.first_row + i / kTileRows * kTileRows + kTileRows; }

// Of a row of scores that sees columns [begin, end): makes the others within the first and the last whole vector vanish under exp.
static inline void hide_edges(float* row, std::int64_t begin, std::int64_t end) {
  for (const std::int64_t j : {begin / kLanes * kLanes, (end - 1) / kLanes * kLanes}) {
    const Ints column = lane_numbers(static_cast<std::int32_t>(j));
    const Ints visible = (column >= static_cast<std::int32_t>(begin)) & (column < static_cast<std::int32_t>(end));
    store(row + j, visible ? load(row + j) : broadcast(-std::numeric_limits<float>::infinity()));
  }
}

// scores[rows, pitch] = left[rows, size] right[size, pitch], where a tile touches the causal part. A strip of keys stays in cache
// for all rows.
static inline void block_scores(float* scores, const float* left, const float* right, const Block& b, const AttentionShape& a,
                                const Padded& padded) {
  constexpr std::int64_t kStrip = 2 * kLanes;
  for (std::int64_t j = b.first_column; j < b.end(); j += kStrip) {
    // Rows whose diagonal lies before this strip see nothing of it.
    const std::int64_t from = std::max<std::int64_t>(0, j - b.first_row) / kTileRows * kTileRows;
    for (std::int64_t i = from; i < b.rows; i += kTileRows)
      tile<2, false>({scores + i * padded.pitch + j, padded.pitch}, {left + i * padded.size, padded.size, 1}, {right + j, padded.pitch},
                     a.size);
  }
}

}  // namespace offramp::cpu
