// The backward of attention, by blocks of queries like the forward (FlashAttention, Dao et al. 2022, algorithm 4). With
// p = exp(scale * q k^T - lse) made again, m the factors of dropout (1 without), and delta = rowsum(d_out * out):
//   dv += (p m)^T d_out      dp = m (d_out v^T)      ds = scale * p * (dp - delta)      dq = ds k      dk += ds^T q
#include <omp.h>

#include "tensor/cpu/attention_block.h"

namespace offramp::cpu {

namespace {

template <class T>
struct Workspace {
  float *keys_t, *values_t;                      // [words, pitch] transposed
  float *keys, *packed;                          // [length / kPerWord, size] zipped; [length, words], for a moment
  float *d_keys = nullptr, *d_values = nullptr;  // [length, size]: sums over blocks and heads, of the present task
  float *queries, *d_out;                        // [kQueryRows, words]
  float *queries_zipped, *out_zipped;            // [kQueryRows / kPerWord, size]: queries and d_out
  float* d_queries;                              // [kQueryRows, size]
  float *p, *ds;                                 // [kQueryRows, pitch], then zipped [kQueryRows / kPerWord, kPerWord * pitch]
  float* ds_rows;                                // [kQueryRows, pitch / kPerWord]: ds for sums along its rows
  float* factors;                                // [kPerWord, pitch], with dropout
  std::int64_t floats;                           // of all parts
  Workspace(float* scratch, const Padded<T>& padded, bool drops) {
    constexpr bool kSame = kPerWord<T> == 1;  // zipped and not
    Parts parts(scratch);
    for (float** t : {&keys_t, &values_t}) *t = parts.take(padded.words * padded.pitch);
    keys = parts.take(padded.length / kPerWord<T> * padded.size);
    packed = kSame ? keys : parts.take(padded.length * padded.words);
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
[[gnu::noinline]] void block_gradient(const Workspace<T>& w, const Block& b, const Head<T>& head, const AttentionShape& a,
                                      const Padded<T>& padded) {
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
[[gnu::noinline]] void block_keys(const Workspace<T>& w, const Block& b, const Padded<T>& padded) {
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
[[gnu::noinline]] void block_queries(const Workspace<T>& w, const Block& b, const Padded<T>& padded) {
  const std::int64_t first = b.first_column / kPerWord<T>, pitch = padded.pitch / kPerWord<T>;
  for (std::int64_t i = 0; i < b.rows; i += kTileRows)
    tile_row<T, false>({w.d_queries + i * padded.size, padded.size}, {w.ds_rows + i * pitch + first, pitch, 1},
                       {w.keys + first * padded.size, padded.size}, diagonal(b, i) / kPerWord<T> - first, padded.size);
}

template <class T>
void one_block(const Workspace<T>& w, const Head<T>& head, std::int64_t first_row, const AttentionShape& a, const Padded<T>& padded) {
  const Block b = block_at(first_row, a.length, head.first_key);
  const Rows<const T> queries = head.queries.from(first_row), d_out = head.d_out.from(first_row);
  const std::int64_t rows = round_up(b.rows, kTileRows);
  pack(w.queries, queries, b.rows, rows, a.size, padded);
  pack(w.d_out, d_out, b.rows, rows, a.size, padded);
  if constexpr (kPerWord<T> != 1) {
    pack_zipped(w.queries_zipped, queries, b.rows, rows, a.size, padded);
    pack_zipped(w.out_zipped, d_out, b.rows, rows, a.size, padded);
  }
  block_scores(w.p, w.queries, w.keys_t, b, padded);
  block_scores(w.ds, w.d_out, w.values_t, b, padded);
  block_gradient(w, b, head, a, padded);
  block_keys(w, b, padded);
  block_queries(w, b, padded);
  for (std::int64_t i = 0; i < b.rows; ++i) unpack(head.d_queries.row(first_row + i), w.d_queries + i * padded.size, a.size, 1);
}

// The keys and values of one (sequence, group).
template <class T>
void pack_group(const Workspace<T>& w, Rows<const T> keys, const AttentionShape& a, const Padded<T>& padded) {
  const Rows<const T> values = {keys.data + a.size, keys.stride};
  pack(w.packed, values, a.length, padded.length, a.size, padded);
  transpose_packed(w.values_t, w.packed, padded);
  pack(w.packed, keys, a.length, padded.length, a.size, padded);
  transpose_packed(w.keys_t, w.packed, padded);
  pack_zipped(w.keys, keys, a.length, padded.length, a.size, padded);
}

// Where tasks sum gradients of keys and values, [length, size] each: a task that is a whole group has them for its own time, in its
// thread's part; parts of a group keep theirs until all are there.
template <class T>
class Sums {
 public:
  Sums(float* scratch, const Tasks& tasks, const Padded<T>& padded)
      : scratch_(scratch),
        parts_(tasks.parts),
        count_(parts_ > 1 ? tasks.count() : omp_get_max_threads()),
        half_(padded.length * padded.size) {}
  std::int64_t floats() const { return count_ * 2 * half_; }
  std::int64_t half() const { return half_; }
  float* of(std::int64_t task) const { return scratch_ + (parts_ > 1 ? task : omp_get_thread_num()) * 2 * half_; }
  // Adds the parts of the group whose first task is `task`, in their order.
  void join(std::int64_t task) const {
    for (std::int64_t part = 1; part < parts_; ++part) {
      for (std::int64_t i = 0; i < 2 * half_; i += kLanes) store(of(task) + i, load(of(task) + i) + load(of(task + part) + i));
    }
  }

 private:
  float* scratch_;
  std::int64_t parts_, count_, half_;
};

// One call's arguments, and where a (sequence, group) lies in them.
template <class T>
struct Call {
  const AttentionShape& a;
  const AttentionGradient<T>& t;
  Padded<T> padded{a};
  Tasks tasks{a};
  std::int64_t token(std::int64_t index) const { return index / a.groups * a.length; }
  std::int64_t offset(std::int64_t index) const { return index % a.groups * (2 + a.queries) * a.size; }
  Rows<const T> group(std::int64_t index) const { return {t.qkv + token(index) * a.qkv_stride + offset(index), a.qkv_stride}; }
  Rows<T> d_group(std::int64_t index) const { return {t.d_qkv + token(index) * t.d_qkv_stride + offset(index), t.d_qkv_stride}; }

  Head<T> head(std::int64_t index, std::int64_t q) const {
    const std::int64_t g = index % a.groups, head = g * a.queries + q, first = token(index);
    return {.queries = {group(index).data + (2 + q) * a.size, a.qkv_stride},
            .d_out = {t.d_out + first * t.d_out_stride + head * a.size, t.d_out_stride},
            .out = {t.out + first * a.out_stride + head * a.size, a.out_stride},
            .d_queries = {d_group(index).data + (2 + q) * a.size, t.d_qkv_stride},
            .lse = t.lse + head * a.lse_stride + first,
            .first_key = t.first_key ? t.first_key + first : nullptr,
            .drop = HeadDrop(a, t.drop, index / a.groups, g, q)};
  }
  void write(std::int64_t index, const float* d_keys, const float* d_values) const {
    for (std::int64_t i = 0; i < a.length; ++i) {
      unpack(d_group(index).row(i), d_keys + i * padded.size, a.size, 1);
      unpack(d_group(index).row(i) + a.size, d_values + i * padded.size, a.size, 1);
    }
  }
};

}  // namespace

template <class T>
std::int64_t attention_backward_scratch(const AttentionShape& a, bool drops) {
  const Padded<T> padded(a);
  return omp_get_max_threads() * Workspace<T>(nullptr, padded, drops).floats + Sums<T>(nullptr, Tasks(a), padded).floats();
}

template <class T>
void attention_backward(const AttentionShape& a, const AttentionGradient<T>& t, float* scratch) {
  const Call<T> call{a, t};
  const Tasks& tasks = call.tasks;
  const bool drops = t.drop.p > 0;
  const Sums<T> sums(scratch, tasks, call.padded);
#pragma omp parallel
  {
    const std::int64_t floats = Workspace<T>(nullptr, call.padded, drops).floats;
    Workspace<T> w(scratch + sums.floats() + omp_get_thread_num() * floats, call.padded, drops);
    std::int64_t packed = -1;  // the (sequence, group) that this thread has
#pragma omp for schedule(static)
    for (std::int64_t task = 0; task < tasks.count(); ++task) {
      const std::int64_t index = task / tasks.parts;
      if (packed != index) pack_group(w, call.group(index), a, call.padded);
      packed = index;
      w.d_keys = sums.of(task), w.d_values = w.d_keys + sums.half();
      std::fill_n(w.d_keys, 2 * sums.half(), 0.0f);
      tasks.each_block(task, [&](std::int64_t q, std::int64_t row) { one_block(w, call.head(index, q), row, a, call.padded); });
      if (tasks.parts == 1) call.write(index, w.d_keys, w.d_values);
    }
#pragma omp for schedule(static)
    for (std::int64_t index = 0; index < (tasks.parts > 1 ? tasks.groups : 0); ++index) {
      const std::int64_t task = index * tasks.parts;
      sums.join(task);
      call.write(index, sums.of(task), sums.of(task) + sums.half());
    }
  }
}

template std::int64_t attention_backward_scratch<float>(const AttentionShape&, bool);
template std::int64_t attention_backward_scratch<bf16>(const AttentionShape&, bool);
template void attention_backward(const AttentionShape&, const AttentionGradient<float>&, float*);
template void attention_backward(const AttentionShape&, const AttentionGradient<bf16>&, float*);

}  // namespace offramp::cpu
