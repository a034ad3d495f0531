// What the forward and the backward of attention share: how one (sequence, group) is packed, and the scores of a block of queries.
// Queries go in blocks of kQueryRows rows against all keys a block can see, so scratch is kQueryRows x length, whatever n is.
//
// A product sums over words (tile.h), so a bf16 operand is packed with neighbours of its sum side by side: rows as they are where
// the sum runs along them, two rows zipped into one where it runs across. For f32 both are the same.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/cpu/drop.h"
#include "tensor/cpu/parts.h"
#include "tensor/cpu/products.h"
#include "tensor/cpu/tile.h"

namespace offramp::cpu {

inline constexpr std::int64_t kQueryRows = 64;  // of a block; a multiple of kTileRows
static_assert(kQueryRows % kLanes == 0);

// Sizes padded to whole vectors.
template <class T>
struct Padded {
  std::int64_t length, size;
  std::int64_t depth, words;  // of a row of the head: what a sum runs over, and padded
  std::int64_t pitch;         // of rows that run over keys: one vector more, because a power of two would hit few cache sets
  explicit Padded(const AttentionShape& a)
      : length(round_up(a.length, 2 * kLanes)),
        size(round_up(a.size, kLanes)),
        depth((a.size + kPerWord<T> - 1) / kPerWord<T>),
        words(round_up(depth, kLanes)),
        pitch(length + kLanes) {}
};

// Rows of one head within a token-major buffer.
template <class T>
struct Rows {
  T* data;
  std::int64_t stride;
  T* row(std::int64_t i) const { return data + i * stride; }
  Rows from(std::int64_t i) const { return {row(i), stride}; }
};

// to[count rounded up, words] = from[count, size], zeros elsewhere.
template <class T>
static inline void pack(float* to, Rows<const T> from, std::int64_t count, std::int64_t padded_count, std::int64_t size,
                        const Padded<T>& padded) {
  std::fill(to + count * padded.words, to + padded_count * padded.words, 0.0f);
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = to + i * padded.words;
    std::fill(row + size / kPerWord<T>, row + padded.words, 0.0f);
    std::memcpy(static_cast<void*>(row), from.row(i), static_cast<std::size_t>(size) * sizeof(T));
  }
}

// A word of two bf16 in each lane.
static inline Floats zipped(const bf16* low, const bf16* high) { return (Floats)((Words)load(low) >> 16 | (Words)load(high)); }

// Rounded to T.
template <class T>
static inline Floats zipped(const Floats (&rows)[kPerWord<T>]) {
  if constexpr (kPerWord<T> == 1) {
    return rows[0];
  } else {
    return (Floats)(__builtin_convertvector(rounded(rows[0]), Words) | __builtin_convertvector(rounded(rows[1]), Words) << 16);
  }
}

// to[count rounded up / kPerWord, padded size]: the rows of from[count, size] in twos, of bf16.
static inline void pack_zipped(float* to, Rows<const bf16> from, std::int64_t count, std::int64_t padded_count, std::int64_t size,
                               const Padded<bf16>& padded) {
  const auto packed = [&](std::int64_t i, std::int64_t c, bf16* lanes) {  // what there is of a vector, else zeros
    std::fill_n(lanes, kLanes, bf16());
    if (i < count) std::copy_n(from.row(i) + c, std::min<std::int64_t>(kLanes, size - c), lanes);
  };
  for (std::int64_t i = 0; i < padded_count; i += 2) {
    for (std::int64_t c = 0; c < padded.size; c += kLanes) {
      float* word = to + i / 2 * padded.size + c;
      if (i + 2 <= count && c + kLanes <= size) {
        store(word, zipped(from.row(i) + c, from.row(i + 1) + c));
        continue;
      }
      bf16 low[kLanes], high[kLanes];
      packed(i, c, low), packed(i + 1, c, high);
      store(word, zipped(low, high));
    }
  }
}

static inline void pack_zipped(float* to, Rows<const float> from, std::int64_t count, std::int64_t padded_count, std::int64_t size,
                               const Padded<float>& padded) {
  pack(to, from, count, padded_count, size, padded);
}

// to[words, pitch] = the transpose of a packed from[length, words]; columns from padded.length on are left alone and never used.
template <class T>
static inline void transpose_packed(float* to, const float* from, const Padded<T>& padded) {
  for (std::int64_t j = 0; j < padded.length; j += kLanes) {
    for (std::int64_t c = 0; c < padded.words; c += kLanes) {
      Floats rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = load(from + (j + r) * padded.words + c);
      transpose(rows);
      for (int r = 0; r < kLanes; ++r) store(to + (c + r) * padded.pitch + j, rows[r]);
    }
  }
}

// to[size] = scale * from[size].
template <class T>
static inline void unpack(T* to, const float* from, std::int64_t size, float scale) {
  std::int64_t c = 0;
  for (; c + kLanes <= size; c += kLanes) store(to + c, load(from + c) * scale);
  for (; c < size; ++c) to[c] = static_cast<T>(from[c] * scale);
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

// Of a row of scores that sees columns [begin, end): makes the others vanish under exp, from `low` on (a multiple of kLanes, at most
// begin) to the end of the last whole vector.
static inline void hide_edges(float* row, std::int64_t low, std::int64_t begin, std::int64_t end) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  std::fill(row + low, row + begin / kLanes * kLanes, kHidden);
  for (const std::int64_t j : {begin / kLanes * kLanes, (end - 1) / kLanes * kLanes}) {
    const Ints column = lane_numbers(static_cast<std::int32_t>(j));
    const Ints visible = (column >= static_cast<std::int32_t>(begin)) & (column < static_cast<std::int32_t>(end));
    store(row + j, visible ? load(row + j) : broadcast(kHidden));
  }
}

// scores[rows, pitch] = left[rows, words] right[words, pitch], where a tile touches the causal part. A strip of keys stays in cache
// for all rows.
template <class T>
[[gnu::noinline]] static void block_scores(float* scores, const float* left, const float* right, const Block& b, const Padded<T>& padded) {
  constexpr std::int64_t kStrip = 2 * kLanes;
  for (std::int64_t j = b.first_column; j < b.end(); j += kStrip) {
    // Rows whose diagonal lies before this strip see nothing of it.
    const std::int64_t from = std::max<std::int64_t>(0, j - b.first_row) / kTileRows * kTileRows;
    for (std::int64_t i = from; i < b.rows; i += kTileRows) {
      const Target c = {scores + i * padded.pitch + j, padded.pitch};
      const Left a = {left + i * padded.words, padded.words, 1};
      if (diagonal(b, i) > j + kLanes)
        tile<T, 2, false>(c, a, {right + j, padded.pitch}, padded.depth);
      else
        tile<T, 1, false>(c, a, {right + j, padded.pitch}, padded.depth);
    }
  }
}

// How attention is shared among threads. A task is a part of the blocks of one (sequence, group). How many parts there are is a
// matter of shapes alone, because each sums gradients of keys and values by itself; few, because each packs keys and values.
inline constexpr std::int64_t kTasks = 8;  // at least, where there are as many blocks

struct Tasks {
  std::int64_t groups, blocks, units, parts;  // of all sequences; of a query head; blocks of a group; parts of a group
  explicit Tasks(const AttentionShape& a)
      : groups(a.sequences * a.groups),
        blocks((a.length + kQueryRows - 1) / kQueryRows),
        units(a.queries * blocks),
        parts(std::clamp<std::int64_t>(groups ? (kTasks + groups - 1) / groups : 1, 1, units)) {}
  std::int64_t count() const { return groups * parts; }
  // f(query, first row) for each block of a task. Long blocks, which see many keys, alternate with short ones, so that parts take
  // about equally long.
  template <class F>
  void each_block(std::int64_t task, F f) const {
    const std::int64_t part = task % parts;
    for (std::int64_t u = units * part / parts; u < units * (part + 1) / parts; ++u) {
      const std::int64_t k = u % blocks, block = k % 2 ? k / 2 : blocks - 1 - k / 2;
      f(u / blocks, block * kQueryRows);
    }
  }
};

// Dropout of one head: the number of (row, key) is first + row * length + key.
struct HeadDrop {
  float p = 0;
  Key key;
  std::uint64_t first = 0;
  std::int64_t length = 0;
  HeadDrop(const AttentionShape& a, const AttentionDrop& drop, std::int64_t sequence, std::int64_t group, std::int64_t query)
      : p(drop.p), key(drop.key), length(a.length) {
    const std::int64_t head = (drop.first_group + group * drop.group_step) * a.queries + query;
    first = static_cast<std::uint64_t>(((drop.first_sample + sequence) * drop.heads + head) * length * length);
  }
};

// factors[begin, end) = what the row's probabilities are multiplied by: 0, or 1 / (1 - p).
static inline void drop_factors(float* factors, const HeadDrop& drop, std::int64_t row, std::int64_t begin, std::int64_t end) {
  drop_scales(factors + begin, drop.key, drop.p, drop.first + static_cast<std::uint64_t>(row * drop.length + begin), end - begin);
}

}  // namespace offramp::cpu
