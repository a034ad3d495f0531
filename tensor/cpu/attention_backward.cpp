// The backward of attention, by blocks of queries like the forward (FlashAttention, Dao et al. 2022, algorithm 4). With
// p = exp(scale * q k^T - lse) made again and delta = rowsum(d_out * out):
//   dv += p^T d_out      dp = d_out v^T      ds = scale * p * (dp - delta)      dq = ds k      dk += ds^T q
#include <omp.h>

#include "tensor/cpu/attention_block.h"

namespace offramp::cpu {

namespace {

struct Workspace {
  float *keys_t, *values_t, *keys;     // [size, pitch] transposed, twice; [length, size]
  float *d_keys, *d_values;            // [length, size]: sums over blocks and heads, in that order
  float *queries, *d_out, *d_queries;  // [kQueryRows, size]
  float *p, *ds;                       // [kQueryRows, pitch]
  std::int64_t floats;                 // of all parts
  Workspace(float* scratch, const Padded& padded) {
    Parts parts(scratch);
    for (float** t : {&keys_t, &values_t}) *t = parts.take(padded.size * padded.pitch);
    for (float** t : {&keys, &d_keys, &d_values}) *t = parts.take(padded.length * padded.size);
    for (float** t : {&queries, &d_out, &d_queries}) *t = parts.take(kQueryRows * padded.size);
    for (float** t : {&p, &ds}) *t = parts.take(kQueryRows * padded.pitch);
    floats = parts.used();
  }
};

struct Head {
  Rows queries, d_out, out;
  float* d_queries;
  std::int64_t d_stride;
  const float* lse;
  const std::int32_t* first_key;
};

float dot(const float* a, const float* b, std::int64_t size) {
  Floats sums{};
  std::int64_t c = 0;
  for (; c + kLanes <= size; c += kLanes) sums += load(a + c) * load(b + c);
  float sum = sum_of(sums);
  for (; c < size; ++c) sum += a[c] * b[c];
  return sum;
}

// p holds q k^T and ds holds dp; both become what their names say, and 0 where the row sees nothing.
void gradient_row(float* p, float* ds, std::int64_t begin, std::int64_t end, float scale, float lse, float delta) {
  hide_edges(p, begin, end);
  for (std::int64_t j = begin / kLanes * kLanes; j < end; j += kLanes) {
    const Floats probability = exp(load(p + j) * scale - lse);
    store(p + j, probability);
    store(ds + j, probability * (load(ds + j) - delta) * scale);
  }
}

void block_gradient(const Workspace& w, const Block& b, const Head& head, const AttentionShape& a, const Padded& padded) {
  const float scale = 1 / std::sqrt(static_cast<float>(a.size));
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const std::int64_t row = b.first_row + i, begin = first_key_at(head.first_key, row);
    float *p = w.p + i * padded.pitch, *ds = w.ds + i * padded.pitch;
    const float delta = dot(w.d_out + i * padded.size, head.out.data + row * head.out.stride, a.size);
    gradient_row(p, ds, begin, row + 1, scale, head.lse[row], delta);
    for (float* t : {p, ds}) std::fill(t + b.first_column, t + begin / kLanes * kLanes, 0.0f);
  }
}

// d_keys += ds^T queries, d_values += p^T d_out. A tile of keys is seen by rows from its own on.
void block_keys(const Workspace& w, const Block& b, const Padded& padded) {
  const auto add = [&](float* d, const float* weights, const float* rows, std::int64_t j, std::int64_t i) {
    tile_row<true>({d + j * padded.size, padded.size}, {weights + i * padded.pitch + j, 1, padded.pitch},
                   {rows + i * padded.size, padded.size}, b.rows - i, padded.size);
  };
  for (std::int64_t j = b.first_column; j < b.end(); j += kTileRows) {
    const std::int64_t i = std::max<std::int64_t>(0, j - b.first_row);
    add(w.d_values, w.p, w.d_out, j, i);
    add(w.d_keys, w.ds, w.queries, j, i);
  }
}

void block_queries(const Workspace& w, const Block& b, const Padded& padded) {
  for (std::int64_t i = 0; i < b.rows; i += kTileRows)
    tile_row<false>({w.d_queries + i * padded.size, padded.size}, {w.ds + i * padded.pitch + b.first_column, padded.pitch, 1},
                    {w.keys + b.first_column * padded.size, padded.size}, diagonal(b, i) - b.first_column, padded.size);
}

void unpack(float* to, std::int64_t stride, const float* from, std::int64_t count, std::int64_t size, std::int64_t padded) {
  for (std::int64_t i = 0; i < count; ++i) std::copy_n(from + i * padded, size, to + i * stride);
}

void one_head(const Workspace& w, const Head& head, const AttentionShape& a, const Padded& padded) {
  for (std::int64_t r = 0; r < a.length; r += kQueryRows) {
    const Block b = block_at(r, a.length, head.first_key);
    const auto packed = [&](float* to, Rows from) {
      pack(to, {from.data + r * from.stride, from.stride}, b.rows, round_up(b.rows, kTileRows), a.size, padded.size, 1);
    };
    packed(w.queries, head.queries);
    packed(w.d_out, head.d_out);
    block_scores(w.p, w.queries, w.keys_t, b, a, padded);
    block_scores(w.ds, w.d_out, w.values_t, b, a, padded);
    block_gradient(w, b, head, a, padded);
    block_keys(w, b, padded);
    block_queries(w, b, padded);
    unpack(head.d_queries + r * head.d_stride, head.d_stride, w.d_queries, b.rows, a.size, padded.size);
  }
}

// Packs one group, and clears what its heads add to.
void begin_group(const Workspace& w, const float* group, const AttentionShape& a, const Padded& padded) {
  pack(w.keys, {group, a.qkv_stride}, a.length, padded.length, a.size, padded.size, 1);
  transpose_packed(w.keys_t, w.keys, padded);
  pack(w.d_values, {group + a.size, a.qkv_stride}, a.length, padded.length, a.size, padded.size, 1);  // values, for a moment
  transpose_packed(w.values_t, w.d_values, padded);
  for (float* t : {w.d_keys, w.d_values}) std::fill_n(t, padded.length * padded.size, 0.0f);
}

}  // namespace

std::int64_t attention_backward_scratch(const AttentionShape& a) { return Workspace(nullptr, Padded(a)).floats; }

// One task is a (sequence, group): only it adds to that group's d_keys and d_values.
void attention_backward(const AttentionShape& a, const AttentionGradient& gradient, const float* out, const float* lse, const float* qkv,
                        const std::int32_t* first_key, float* scratch) {
  const Padded padded(a);
  const std::int64_t part = attention_backward_scratch(a);
#pragma omp parallel for schedule(static)
  for (std::int64_t task = 0; task < a.sequences * a.groups; ++task) {
    const Workspace w(scratch + omp_get_thread_num() * part, padded);
    const std::int64_t token = task / a.groups * a.length, g = task % a.groups, offset = g * (2 + a.queries) * a.size;
    const float* group = qkv + token * a.qkv_stride + offset;
    float* d_group = gradient.d_qkv + token * gradient.d_qkv_stride + offset;
    begin_group(w, group, a, padded);
    for (std::int64_t q = 0; q < a.queries; ++q) {
      const std::int64_t head = g * a.queries + q, column = head * a.size;
      one_head(w,
               {.queries = {group + (2 + q) * a.size, a.qkv_stride},
                .d_out = {gradient.d_out + token * gradient.d_out_stride + column, gradient.d_out_stride},
                .out = {out + token * a.out_stride + column, a.out_stride},
                .d_queries = d_group + (2 + q) * a.size,
                .d_stride = gradient.d_qkv_stride,
                .lse = lse + head * a.lse_stride + token,
                .first_key = first_key ? first_key + token : nullptr},
               a, padded);
    }
    unpack(d_group, gradient.d_qkv_stride, w.d_keys, a.length, a.size, padded.size);
    unpack(d_group + a.size, gradient.d_qkv_stride, w.d_values, a.length, a.size, padded.size);
  }
}

}  // namespace offramp::cpu
