// Exact causal attention, a block of queries at a time: scores against every visible key, softmax over whole rows, times values.
// FlashAttention's memory (Dao et al. 2022, section 3) without its online softmax: on a CPU a block of whole rows fits the cache.
#include <omp.h>

#include "tensor/cpu/attention_block.h"

namespace offramp::cpu {

namespace {

struct Workspace {
  float *keys, *values;                 // [size, pitch] transposed; [length, size]
  float *queries, *scores, *out, *sum;  // [kQueryRows, size]; [kQueryRows, pitch]; [kQueryRows, size]; [kQueryRows]
  std::int64_t floats;                  // of all parts
  Workspace(float* scratch, const Padded& padded) {
    Parts parts(scratch);
    keys = parts.take(padded.size * padded.pitch);
    values = parts.take(padded.length * padded.size);
    queries = parts.take(kQueryRows * padded.size);
    scores = parts.take(kQueryRows * padded.pitch);
    out = parts.take(kQueryRows * padded.size);
    sum = parts.take(kQueryRows);
    floats = parts.used();
  }
};

// row = exp(row - maximum) in the columns [begin, end) that it sees, 0 in the rest of their vectors. Returns the sum; `maximum` is
// the row's largest score.
float softmax_row(float* row, std::int64_t begin, std::int64_t end, float& maximum) {
  hide_edges(row, begin, end);
  const std::int64_t low = begin / kLanes * kLanes;
  Floats most = load(row + low);
  for (std::int64_t j = low + kLanes; j < end; j += kLanes) {
    const Floats x = load(row + j);
    most = most > x ? most : x;
  }
  maximum = maximum_of(most);
  Floats sum{};
  for (std::int64_t j = low; j < end; j += kLanes) {
    const Floats p = exp(load(row + j) - maximum);
    store(row + j, p);
    sum += p;
  }
  return sum_of(sum);
}

// w.out = softmax(w.scores) w.values without the division by w.sum, tile by tile: what softmax wrote is still in cache.
void block_out(const Workspace& w, const Block& b, const Padded& padded) {
  for (std::int64_t i = 0; i < b.rows; i += kTileRows)
    tile_row<false>({w.out + i * padded.size, padded.size}, {w.scores + i * padded.pitch + b.first_column, padded.pitch, 1},
                    {w.values + b.first_column * padded.size, padded.size}, diagonal(b, i) - b.first_column, padded.size);
}

struct Head {
  Rows queries;
  float* out;
  float* lse;  // of this sequence's rows, or null
  const std::int32_t* first_key;
};

void block_softmax(const Workspace& w, const Block& b, const Head& head, const Padded& padded) {
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const std::int64_t row = b.first_row + i, begin = first_key_at(head.first_key, row);
    float* scores = w.scores + i * padded.pitch;
    float maximum = 0;
    w.sum[i] = softmax_row(scores, begin, row + 1, maximum);
    std::fill(scores + b.first_column, scores + begin / kLanes * kLanes, 0.0f);
    if (head.lse) head.lse[row] = maximum + std::log(w.sum[i]);
  }
}

void one_head(const Workspace& w, const Head& head, const AttentionShape& a, const Padded& padded) {
  const float scale = 1 / std::sqrt(static_cast<float>(a.size));
  for (std::int64_t r = 0; r < a.length; r += kQueryRows) {
    const Block b = block_at(r, a.length, head.first_key);
    const Rows queries = {head.queries.data + r * head.queries.stride, head.queries.stride};
    pack(w.queries, queries, b.rows, round_up(b.rows, kTileRows), a.size, padded.size, scale);
    block_scores(w.scores, w.queries, w.keys, b, a, padded);
    block_softmax(w, b, head, padded);
    block_out(w, b, padded);
    for (std::int64_t i = 0; i < b.rows; ++i) {
      const float inverse = 1 / w.sum[i];
      float* out = head.out + (r + i) * a.out_stride;
      for (std::int64_t c = 0; c < a.size; ++c) out[c] = w.out[i * padded.size + c] * inverse;
    }
  }
}

}  // namespace

std::int64_t attention_scratch(const AttentionShape& a) { return Workspace(nullptr, Padded(a)).floats; }

// One task is a (sequence, group): its keys and values are packed once for all its query heads.
void attention(const AttentionShape& a, float* out, float* lse, const float* qkv, const std::int32_t* first_key, float* scratch) {
  const Padded padded(a);
  const std::int64_t part = attention_scratch(a);
#pragma omp parallel for schedule(static)
  for (std::int64_t task = 0; task < a.sequences * a.groups; ++task) {
    const Workspace w(scratch + omp_get_thread_num() * part, padded);
    const std::int64_t token = task / a.groups * a.length, g = task % a.groups;
    const float* group = qkv + token * a.qkv_stride + g * (2 + a.queries) * a.size;
    pack(w.values, {group, a.qkv_stride}, a.length, padded.length, a.size, padded.size, 1);
    transpose_packed(w.keys, w.values, padded);
    pack(w.values, {group + a.size, a.qkv_stride}, a.length, padded.length, a.size, padded.size, 1);
    for (std::int64_t q = 0; q < a.queries; ++q) {
      const std::int64_t head = g * a.queries + q;
      one_head(w,
               {.queries = {group + (2 + q) * a.size, a.qkv_stride},
                .out = out + token * a.out_stride + head * a.size,
                .lse = lse ? lse + head * a.lse_stride + token : nullptr,
                .first_key = first_key ? first_key + token : nullptr},
               a, padded);
    }
  }
}

}  // namespace offramp::cpu
