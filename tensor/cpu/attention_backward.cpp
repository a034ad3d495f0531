// The backward of attention, by blocks of queries like the forward (FlashAttention, Dao et al. 2022, algorithm 4). With
// p = exp(scale * q k^T - lse) made again, m the factors of dropout (1 without), and delta = rowsum(d_out * out):
//   dv += (p m)^T d_out      dp = m (d_out v^T)      ds = scale * p * (dp - delta)      dq = ds k      dk += ds^T q
#include <omp.h>

#include "tensor/cpu/attention_block.h"

namespace offramp::cpu {

namespace {

template <class T>
struct Workspace {
  float *keys_t, *values_t;            // [words, pitch] transposed
  float *keys, *packed;                // [length / kPerWord, size] zipped; [length, words], for a moment
  float *d_keys, *d_values;            // [length, size]: sums over blocks and heads, in that order
  float *queries, *d_out;              // [kQueryRows, words]
  float *queries_zipped, *out_zipped;  // [kQueryRows / kPerWord, size]: queries and d_out
  float* d_queries;                    // [kQueryRows, size]
  float *p, *ds;                       // [kQueryRows, pitch], then zipped [kQueryRows / kPerWord, kPerWord * pitch]
  float* ds_rows;                      // [kQueryRows, pitch / kPerWord]: ds for sums along its rows
  float* factors;                      // [kPerWord, pitch], with dropout
  std::int64_t floats;                 // of all parts
  Workspace(float* scratch, const Padded<T>& padded, bool drops) {
    constexpr bool kSame = kPerWord<T> == 1;  // zipped and not
    Parts parts(scratch);
    for (float** t : {&keys_t, &values_t}) *t = parts.take(padded.words * padded.pitch);
    keys = parts.take(padded.length / kPerWord<T> * padded.size);
    packed = kSame ? keys : parts.take(padded.length * padded.words);
    for (float** t : {&d_keys, &d_values}) *t = parts.take(padded.length * padded.size);
    for (float** t : {&queries, &d_out}) *t = parts.take(kQueryRows * padded.words);
    queries_zipped = kSame ? queries : parts.take(kQueryRows / kPerWord<T> * padded.size);
    out_zipped = kSame ? d_out : parts.take(kQueryRows / kPerWord<T> * padded.size);
    d_queries = parts.take(kQueryRows * padded.size);
    for (float** t : {&p, &ds}) *t = parts.take(kQueryRows * padded.pitch);
    ds_rows = kSame ? ds : parts.take(kQueryRows * padded.pitch / kPerWord<T>);
    factors = parts.take(drops ? kPerWord<T> * padded.pitch : 0);
    floats = parts.used();
  }
};

template <class T>
struct Head {
  Rows<const T> queries, d_out, out;
  Rows<T> d_queries;
  const float* lse;
  const std::int32_t* first_key;
  HeadDrop drop;
};

template <class T>
float dot(const T* a, const T* b, std::int64_t size) {
  Floats sums{};
  std::int64_t c = 0;
  for (; c + kLanes <= size; c += kLanes) sums += load(a + c) * load(b + c);
  float sum = sum_of(sums);
  for (; c < size; ++c) sum += static_cast<float>(a[c]) * static_cast<float>(b[c]);
  return sum;
}

// One row's numbers. A row that is not there has lse = infinity, so that its p and ds vanish.
struct Row {
  std::int64_t begin = 0;
  float lse = std::numeric_limits<float>::infinity(), delta = 0;
};

// The rows of one word: p holds q k^T and ds holds dp; both become what their names say, zipped, and ds_rows as well.
template <class T, bool drops>
void gradient_rows(const Workspace<T>& w, std::int64_t i, const Row (&rows)[kPerWord<T>], std::int64_t low, std::int64_t end, float scale,
                   std::int64_t pitch) {
  constexpr int kRows = kPerWord<T>;
  float *p = w.p + i * pitch, *ds = w.ds + i * pitch;
  for (std::int64_t j = low; j < end; j += kLanes) {
    Floats weights[kRows], gradients[kRows];
    for (int r = 0; r < kRows; ++r) {
      const Floats probability = exp2(load(p + r * pitch + j) * (scale * kLog2e) - rows[r].lse * kLog2e);
      const Floats factors = drops ? load(w.factors + r * pitch + j) : Floats{}, dp = load(ds + r * pitch + j);
      weights[r] = drops ? probability * factors : probability;
      gradients[r] = probability * ((drops ? dp * factors : dp) - rows[r].delta) * scale;
    }
    store(p + j, zipped<T>(weights));
    store(ds + j, zipped<T>(gradients));
    if constexpr (kRows > 1) {
      for (int r = 0; r < kRows; ++r) store(reinterpret_cast<T*>(w.ds_rows + (i + r) * pitch / kRows) + j, gradients[r]);
    }
  }
}

template <class T>
void block_gradient(const Workspace<T>& w, const Block& b, const Head<T>& head, const AttentionShape& a, const Padded<T>& padded) {
  constexpr int kRows = kPerWord<T>;
  const std::int64_t pitch = padded.pitch;
  const float scale = 1 / std::sqrt(static_cast<float>(a.size));
  for (std::int64_t i = 0; i < b.rows; i += kRows) {
    const std::int64_t first = b.first_row + i, here = std::min<std::int64_t>(kRows, b.rows - i);
    Row rows[kRows];
    std::int64_t low = first;
    for (std::int64_t r = 0; r < here; ++r) {
      const std::int64_t row = first + r;
      rows[r] = {first_key_at(head.first_key, row), head.lse[row], dot(head.d_out.row(row), head.out.row(row), a.size)};
      low = std::min(low, rows[r].begin / kLanes * kLanes);
    }
    const std::int64_t end = first + here;  // in one vector for all: first is even
    for (std::int64_t r = 0; r < here; ++r) hide_edges(w.p + (i + r) * pitch, low, rows[r].begin, first + r + 1);
    if (head.drop.p > 0) {
      for (int r = 0; r < kRows; ++r) drop_factors(w.factors + r * pitch, head.drop, first + r, low, round_up(end, kLanes));
      gradient_rows<T, true>(w, i, rows, low, end, scale, pitch);
    } else {
      gradient_rows<T, false>(w, i, rows, low, end, scale, pitch);
    }
    for (float* t : {w.p, w.ds}) std::fill(t + i * pitch + b.first_column, t + i * pitch + low, 0.0f);
    if constexpr (kRows > 1) {
      for (std::int64_t r = 0; r < here; ++r) {
        float* row = w.ds_rows + (i + r) * pitch / kRows;
        std::fill(row + b.first_column / kRows, row + low / kRows, 0.0f);
      }
    }
  }
}

// d_keys += ds^T queries, d_values += p^T d_out. A tile of keys is seen by rows from its own on.
template <class T>
void block_keys(const Workspace<T>& w, const Block& b, const Padded<T>& padded) {
  constexpr int kRows = kPerWord<T>;
  const auto add = [&](float* d, const float* weights, const float* rows, std::int64_t j, std::int64_t i) {
    tile_row<T, true>({d + j * padded.size, padded.size}, {weights + i * padded.pitch + j, 1, kRows * padded.pitch},
                      {rows + i / kRows * padded.size, padded.size}, (b.rows - i + kRows - 1) / kRows, padded.size);
  };
  for (std::int64_t j = b.first_column; j < b.end(); j += kTileRows) {
    const std::int64_t i = std::max<std::int64_t>(0, j - b.first_row);
    add(w.d_values, w.p, w.out_zipped, j, i);
    add(w.d_keys, w.ds, w.queries_zipped, j, i);
  }
}

template <class T>
void block_queries(const Workspace<T>& w, const Block& b, const Padded<T>& padded) {
  const std::int64_t first = b.first_column / kPerWord<T>, pitch = padded.pitch / kPerWord<T>;
  for (std::int64_t i = 0; i < b.rows; i += kTileRows)
    tile_row<T, false>({w.d_queries + i * padded.size, padded.size}, {w.ds_rows + i * pitch + first, pitch, 1},
                       {w.keys + first * padded.size, padded.size}, diagonal(b, i) / kPerWord<T> - first, padded.size);
}

template <class T>
void one_head(const Workspace<T>& w, const Head<T>& head, const AttentionShape& a, const Padded<T>& padded) {
  for (std::int64_t r = 0; r < a.length; r += kQueryRows) {
    const Block b = block_at(r, a.length, head.first_key);
    const std::int64_t rows = round_up(b.rows, kTileRows);
    pack(w.queries, head.queries.from(r), b.rows, rows, a.size, padded);
    pack(w.d_out, head.d_out.from(r), b.rows, rows, a.size, padded);
    if constexpr (kPerWord < T >> 1) {
      pack_zipped(w.queries_zipped, head.queries.from(r), b.rows, rows, a.size, padded);
      pack_zipped(w.out_zipped, head.d_out.from(r), b.rows, rows, a.size, padded);
    }
    block_scores(w.p, w.queries, w.keys_t, b, padded);
    block_scores(w.ds, w.d_out, w.values_t, b, padded);
    block_gradient(w, b, head, a, padded);
    block_keys(w, b, padded);
    block_queries(w, b, padded);
    for (std::int64_t i = 0; i < b.rows; ++i) unpack(head.d_queries.row(r + i), w.d_queries + i * padded.size, a.size, 1);
  }
}

// Packs one group, and clears what its heads add to.
template <class T>
void begin_group(const Workspace<T>& w, Rows<const T> keys, const AttentionShape& a, const Padded<T>& padded) {
  const Rows<const T> values = {keys.data + a.size, keys.stride};
  pack(w.packed, values, a.length, padded.length, a.size, padded);
  transpose_packed(w.values_t, w.packed, padded);
  pack(w.packed, keys, a.length, padded.length, a.size, padded);
  transpose_packed(w.keys_t, w.packed, padded);
  pack_zipped(w.keys, keys, a.length, padded.length, a.size, padded);
  for (float* t : {w.d_keys, w.d_values}) std::fill_n(t, padded.length * padded.size, 0.0f);
}

}  // namespace

template <class T>
std::int64_t attention_backward_scratch(const AttentionShape& a, bool drops) {
  return Workspace<T>(nullptr, Padded<T>(a), drops).floats;
}

// One task is a (sequence, group): only it adds to that group's d_keys and d_values.
template <class T>
void attention_backward(const AttentionShape& a, const AttentionGradient<T>& t, float* scratch) {
  const Padded<T> padded(a);
  const bool drops = t.drop.p > 0;
  const std::int64_t part = attention_backward_scratch<T>(a, drops);
#pragma omp parallel for schedule(static)
  for (std::int64_t task = 0; task < a.sequences * a.groups; ++task) {
    const Workspace<T> w(scratch + omp_get_thread_num() * part, padded, drops);
    const std::int64_t sequence = task / a.groups, token = sequence * a.length, g = task % a.groups;
    const std::int64_t offset = g * (2 + a.queries) * a.size;
    const Rows<const T> group = {t.qkv + token * a.qkv_stride + offset, a.qkv_stride};
    const Rows<T> d_group = {t.d_qkv + token * t.d_qkv_stride + offset, t.d_qkv_stride};
    begin_group(w, group, a, padded);
    for (std::int64_t q = 0; q < a.queries; ++q) {
      const std::int64_t head = g * a.queries + q, column = head * a.size;
      one_head(w,
               Head<T>{.queries = {group.data + (2 + q) * a.size, group.stride},
                       .d_out = {t.d_out + token * t.d_out_stride + column, t.d_out_stride},
                       .out = {t.out + token * a.out_stride + column, a.out_stride},
                       .d_queries = {d_group.data + (2 + q) * a.size, d_group.stride},
                       .lse = t.lse + head * a.lse_stride + token,
                       .first_key = t.first_key ? t.first_key + token : nullptr,
                       .drop = HeadDrop(a, t.drop, sequence, g, q)},
               a, padded);
    }
    for (std::int64_t i = 0; i < a.length; ++i) {
      unpack(d_group.row(i), w.d_keys + i * padded.size, a.size, 1);
      unpack(d_group.row(i) + a.size, w.d_values + i * padded.size, a.size, 1);
    }
  }
}

template std::int64_t attention_backward_scratch<float>(const AttentionShape&, bool);
template std::int64_t attention_backward_scratch<bf16>(const AttentionShape&, bool);
template void attention_backward(const AttentionShape&, const AttentionGradient<float>&, float*);
template void attention_backward(const AttentionShape&, const AttentionGradient<bf16>&, float*);

}  // namespace offramp::cpu
