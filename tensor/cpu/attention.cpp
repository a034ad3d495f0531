// Exact causal attention, a block of queries at a time: scores against every visible key, softmax over whole rows, times values.
// FlashAttention's memory (Dao et al. 2022, section 3) without its online softmax: on a CPU a block of whole rows fits the cache.
#include <omp.h>

#include "tensor/cpu/attention_block.h"

namespace offramp::cpu {

namespace {

template <class T>
struct Workspace {
  float *keys, *values;                 // [words, pitch] transposed; [length / kPerWord, size] zipped
  float* packed;                        // [length, words], for a moment
  float *queries, *scores, *out, *sum;  // [kQueryRows, words]; [kQueryRows, pitch]; [kQueryRows, size]; [kQueryRows]
  float* factors;                       // [pitch], with dropout
  std::int64_t floats;                  // of all parts
  Workspace(float* scratch, const Padded<T>& padded, bool drops) {
    Parts parts(scratch);
    keys = parts.take(padded.words * padded.pitch);
    values = parts.take(padded.length / kPerWord<T> * padded.size);
    packed = parts.take(padded.length * padded.words);
    queries = parts.take(kQueryRows * padded.words);
    scores = parts.take(kQueryRows * padded.pitch);
    out = parts.take(kQueryRows * padded.size);
    sum = parts.take(kQueryRows);
    factors = parts.take(drops ? padded.pitch : 0);
    floats = parts.used();
  }
};

// The largest score of a row in the columns [begin, end) that it sees.
float maximum_row(float* row, std::int64_t begin, std::int64_t end) {
  const std::int64_t low = begin / kLanes * kLanes;
  hide_edges(row, low, begin, end);
  Floats most = load(row + low);
  for (std::int64_t j = low + kLanes; j < end; j += kLanes) {
    const Floats x = load(row + j);
    most = most > x ? most : x;
  }
  return maximum_of(most);
}

// The row's probabilities, but for the division by their sum, which is returned, take the place of its scores: p = exp(scale *
// (score - maximum)), times its factor where there is dropout. They are as wide as T, from the row's first byte on.
template <class T, bool drops>
float softmax_row(float* row, std::int64_t low, std::int64_t end, float scale, float maximum, const float* factors) {
  T* to = reinterpret_cast<T*>(row);
  scale *= kLog2e;
  const float shift = maximum * scale;
  Floats sum{};
  for (std::int64_t j = low; j < end; j += kLanes) {
    const Floats p = exp2(load(row + j) * scale - shift);
    store(to + j, drops ? p * load(factors + j) : p);
    sum += p;
  }
  return sum_of(sum);
}

template <class T>
struct Head {
  Rows<const T> queries;
  Rows<T> out;
  float* lse;  // of this sequence's rows, or null
  const std::int32_t* first_key;
  HeadDrop drop;
};

template <class T>
void block_softmax(const Workspace<T>& w, const Block& b, const Head<T>& head, const AttentionShape& a, const Padded<T>& padded) {
  const float scale = 1 / std::sqrt(static_cast<float>(a.size));
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const std::int64_t row = b.first_row + i, begin = first_key_at(head.first_key, row), low = begin / kLanes * kLanes, end = row + 1;
    float* scores = w.scores + i * padded.pitch;
    const float maximum = maximum_row(scores, begin, end);
    if (head.drop.p > 0) drop_factors(w.factors, head.drop, row, low, round_up(end, kLanes));
    w.sum[i] = head.drop.p > 0 ? softmax_row<T, true>(scores, low, end, scale, maximum, w.factors)
                               : softmax_row<T, false>(scores, low, end, scale, maximum, nullptr);
    std::fill(scores + b.first_column / kPerWord<T>, scores + low / kPerWord<T>, 0.0f);
    if (head.lse) head.lse[row] = maximum * scale + std::log(w.sum[i]);
  }
}

// w.out = the probabilities times w.values, tile by tile: what softmax wrote is still in cache.
template <class T>
[[gnu::noinline]] void block_out(const Workspace<T>& w, const Block& b, const Padded<T>& padded) {
  const std::int64_t first = b.first_column / kPerWord<T>;
  for (std::int64_t i = 0; i < b.rows; i += kTileRows)
    tile_row<T, false>({w.out + i * padded.size, padded.size}, {w.scores + i * padded.pitch + first, padded.pitch, 1},
                       {w.values + first * padded.size, padded.size}, diagonal(b, i) / kPerWord<T> - first, padded.size);
}

template <class T>
void one_block(const Workspace<T>& w, const Head<T>& head, std::int64_t first_row, const AttentionShape& a, const Padded<T>& padded) {
  const Block b = block_at(first_row, a.length, head.first_key);
  pack(w.queries, head.queries.from(first_row), b.rows, round_up(b.rows, kTileRows), a.size, padded);
  block_scores(w.scores, w.queries, w.keys, b, padded);
  block_softmax(w, b, head, a, padded);
  block_out(w, b, padded);
  for (std::int64_t i = 0; i < b.rows; ++i) unpack(head.out.row(first_row + i), w.out + i * padded.size, a.size, 1 / w.sum[i]);
}

// The keys and values of one (sequence, group).
template <class T>
void pack_group(const Workspace<T>& w, Rows<const T> keys, const AttentionShape& a, const Padded<T>& padded) {
  pack(w.packed, keys, a.length, padded.length, a.size, padded);
  transpose_packed(w.keys, w.packed, padded);
  pack_zipped(w.values, {keys.data + a.size, keys.stride}, a.length, padded.length, a.size, padded);
}

template <class T>
void one_task(const Workspace<T>& w, const Tasks& tasks, std::int64_t task, std::int64_t& packed, const AttentionShape& a,
              const AttentionData<T>& t, const Padded<T>& padded) {
  const std::int64_t index = task / tasks.parts, sequence = index / a.groups, token = sequence * a.length, g = index % a.groups;
  const Rows<const T> group = {t.qkv + token * a.qkv_stride + g * (2 + a.queries) * a.size, a.qkv_stride};
  if (packed != index) pack_group(w, group, a, padded);
  packed = index;
  tasks.each_block(task, [&](std::int64_t q, std::int64_t first_row) {
    const std::int64_t head = g * a.queries + q;
    one_block(w,
              Head<T>{.queries = {group.data + (2 + q) * a.size, group.stride},
                      .out = {t.out + token * a.out_stride + head * a.size, a.out_stride},
                      .lse = t.lse ? t.lse + head * a.lse_stride + token : nullptr,
                      .first_key = t.first_key ? t.first_key + token : nullptr,
                      .drop = HeadDrop(a, t.drop, sequence, g, q)},
              first_row, a, padded);
  });
}

}  // namespace

template <class T>
std::int64_t attention_scratch(const AttentionShape& a, bool drops) {
  return omp_get_max_threads() * Workspace<T>(nullptr, Padded<T>(a), drops).floats;
}

template <class T>
void attention(const AttentionShape& a, const AttentionData<T>& t, float* scratch) {
  const Padded<T> padded(a);
  const Tasks tasks(a);
  const bool drops = t.drop.p > 0;
#pragma omp parallel
  {
    const std::int64_t floats = Workspace<T>(nullptr, padded, drops).floats;
    const Workspace<T> w(scratch + omp_get_thread_num() * floats, padded, drops);
    std::int64_t packed = -1;  // the (sequence, group) that this thread has
#pragma omp for schedule(static)
    for (std::int64_t task = 0; task < tasks.count(); ++task) one_task(w, tasks, task, packed, a, t, padded);
  }
}

template std::int64_t attention_scratch<float>(const AttentionShape&, bool);
template std::int64_t attention_scratch<bf16>(const AttentionShape&, bool);
template void attention(const AttentionShape&, const AttentionData<float>&, float*);
template void attention(const AttentionShape&, const AttentionData<bf16>&, float*);

}  // namespace offramp::cpu
