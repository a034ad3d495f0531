// What every transport must do with parts (reduce_scatter, all_gather) and with sums of bf16, as functions that all ranks of a
// group call, like those of group_checks.h.
#pragma once
#include "group_checks.h"

namespace offramp {

inline Tensor tensor_of(std::vector<bf16>& x) { return {x.data(), {static_cast<std::int64_t>(x.size())}, DType::bf16}; }

// What a rank adds: awkward() in any element type.
template <class T>
std::vector<T> terms(int rank, std::int64_t n) {
  return awkward<T>(rank, n);
}
template <>
inline std::vector<bf16> terms(int rank, std::int64_t n) {
  const auto wide = awkward<float>(rank, n);
  std::vector<bf16> x;
  for (const float value : wide) x.push_back(bf16(value));
  return x;
}

// The sum of all ranks' terms, written down by itself: in rank order, in `Sum`, rounded once.
template <class T, class Sum>
std::vector<T> sum_of_terms(int ranks, std::int64_t n) {
  std::vector<Sum> sum(static_cast<std::size_t>(n));
  for (int r = 0; r < ranks; ++r) {
    const auto x = terms<T>(r, n);
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] = r == 0 ? static_cast<Sum>(x[i]) : sum[i] + static_cast<Sum>(x[i]);
  }
  std::vector<T> rounded;
  for (const Sum value : sum) rounded.push_back(static_cast<T>(value));
  return rounded;
}

template <class T>
void expect_same_bits(const char* what, const T* x, const std::vector<T>& expected, std::size_t begin, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    ASSERT_EQ(std::memcmp(x + i, &expected[begin + i], sizeof(T)), 0)
        << what << ", " << i << " of " << n << ": " << static_cast<double>(static_cast<float>(x[i])) << " is not "
        << static_cast<double>(static_cast<float>(expected[begin + i]));
}

// reduce_scatter, then all_gather, each once into memory of its own and once in place, of `part` elements a rank.
template <class T, class Sum>
void check_parts(Context& ctx, const Group& group, std::int64_t part) {
  const auto n = part * group.size();
  const auto mine = static_cast<std::size_t>(part * group.rank()), count = static_cast<std::size_t>(part);
  const auto expected = sum_of_terms<T, Sum>(group.size(), n);
  auto in = terms<T>(group.rank(), n);
  std::vector<T> out(count);
  reduce_scatter(ctx, tensor_of(out), tensor_of(in), group).wait(ctx);
  expect_same_bits("reduce_scatter", out.data(), expected, mine, count);

  auto inout = terms<T>(group.rank(), n);
  const Tensor own = tensor_of(inout).narrow(0, part * group.rank(), part);
  reduce_scatter(ctx, own, tensor_of(inout), group).wait(ctx);
  expect_same_bits("reduce_scatter in place", inout.data() + mine, expected, mine, count);

  std::vector<T> whole(static_cast<std::size_t>(n));
  all_gather(ctx, tensor_of(whole), tensor_of(out), group).wait(ctx);
  expect_same_bits("all_gather", whole.data(), expected, 0, whole.size());
  all_gather(ctx, tensor_of(inout), own, group).wait(ctx);
  expect_same_bits("all_gather in place", inout.data(), expected, 0, inout.size());
}

// A sum whose order shows: where a transport adds in rank order, all_reduce gives what the two halves gave above.
template <class T, class Sum>
void check_whole(Context& ctx, const Group& group, std::int64_t n) {
  auto x = terms<T>(group.rank(), n);
  all_reduce(ctx, tensor_of(x), group).wait(ctx);
  expect_same_bits("all_reduce", x.data(), sum_of_terms<T, Sum>(group.size(), n), 0, x.size());
}

// 1 + 2^-8 + 2^-8 is 1 + 2^-7 where it is rounded once, and 1 where each addition is.
inline void check_bf16_rounds_once(Context& ctx, const Group& group) {
  if (group.size() < 3) return;
  std::vector<bf16> x(5, bf16(group.rank() == 0 ? 1.0f : group.rank() <= 2 ? 0x1p-8f : 0.0f));
  all_reduce(ctx, tensor_of(x), group).wait(ctx);
  for (const bf16 value : x) ASSERT_EQ(static_cast<float>(value), 1.0f + 0x1p-7f);
}

// A gather moves every element type as it is.
inline void check_gather_of_i32(Context& ctx, const Group& group, std::int64_t part) {
  std::vector<std::int32_t> in(static_cast<std::size_t>(part)), out(in.size() * static_cast<std::size_t>(group.size()));
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::int32_t>(i) - 1'000'000 * group.rank();
  all_gather(ctx, tensor_of(out), tensor_of(in), group).wait(ctx);
  for (std::size_t i = 0; i < out.size(); ++i)
    ASSERT_EQ(out[i], static_cast<std::int32_t>(i % in.size()) - 1'000'000 * static_cast<std::int32_t>(i / in.size())) << i;
}

// All kinds under way at once on one group, messages among them, waited for in another order on each rank.
inline void check_mixture(Context& ctx, const Group& group, std::int64_t part) {
  const auto ranks = static_cast<std::size_t>(group.size()), n = static_cast<std::size_t>(part);
  const auto own = static_cast<float>(group.rank());
  const int next = (group.rank() + 1) % group.size(), previous = (group.rank() + group.size() - 1) % group.size();
  std::vector<float> sum(n * ranks, own), scattered(n * ranks, 2 * own), scattered_sum(n), gathered(n * ranks), message(n, own), got(n);
  std::vector<bf16> part_of_sum(n * ranks, bf16(own));
  std::vector<std::int32_t> numbers(n, group.rank()), all_numbers(n * ranks);
  std::vector<Work> works;
  works.push_back(all_reduce(ctx, tensor_of(sum), group));
  works.push_back(reduce_scatter(ctx, tensor_of(scattered_sum), tensor_of(scattered), group));
  works.push_back(receive(ctx, tensor_of(got), group, previous, 1));
  works.push_back(all_gather(ctx, tensor_of(gathered), tensor_of(message), group));  // read by two at once
  works.push_back(send(ctx, tensor_of(message), group, next, 1));
  works.push_back(all_reduce(ctx, tensor_of(part_of_sum), group));
  works.push_back(all_gather(ctx, tensor_of(all_numbers), tensor_of(numbers), group));
  for (std::size_t i = 0; i < works.size(); ++i) works[(3 * i + static_cast<std::size_t>(group.rank())) % works.size()].wait(ctx);
  const auto total = static_cast<float>(group.size() * (group.size() - 1) / 2);
  EXPECT_EQ(sum, std::vector<float>(n * ranks, total));
  EXPECT_EQ(scattered_sum, std::vector<float>(n, 2 * total));
  EXPECT_EQ(got, std::vector<float>(n, static_cast<float>(previous)));
  for (const bf16 value : part_of_sum) ASSERT_EQ(static_cast<float>(value), total);
  for (std::size_t i = 0; i < gathered.size(); ++i) {
    ASSERT_EQ(gathered[i], static_cast<float>(i / n)) << i;
    ASSERT_EQ(all_numbers[i], static_cast<std::int32_t>(i / n)) << i;
  }
}

// The same on every rank: mostly small, now and then large.
inline std::vector<std::int64_t> random_sizes(std::uint64_t seed, int count, std::int64_t largest) {
  std::vector<std::int64_t> sizes;
  for (int i = 0; i < count; ++i) {
    const auto draw = static_cast<std::int64_t>(bits(Key{.seed = seed}, static_cast<std::uint64_t>(i)) >> 1);
    sizes.push_back(1 + draw % (i % 3 == 0 ? 20 : i % 3 == 1 ? std::min<std::int64_t>(1000, largest) : largest));
  }
  return sizes;
}

}  // namespace offramp
