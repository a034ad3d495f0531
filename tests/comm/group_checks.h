// What every transport must do, as functions that all ranks of a group call: the in-process and the MPI tests share them.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "comm/host.h"
#include "comm/mesh.h"
#include "tensor/random.h"

namespace offramp {

inline Tensor tensor_of(std::vector<float>& x) { return {x.data(), {static_cast<std::int64_t>(x.size())}, DType::f32}; }
inline Tensor tensor_of(std::vector<double>& x) { return {x.data(), {static_cast<std::int64_t>(x.size())}, DType::f64}; }
inline Tensor tensor_of(std::vector<std::int32_t>& x) { return {x.data(), {static_cast<std::int64_t>(x.size())}, DType::i32}; }

// Small whole numbers: their sums are exact in any order.
inline void check_all_reduce(Context& ctx, const Group& group, std::int64_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>((group.rank() + 1) * (i % 1000));
  all_reduce(ctx, tensor_of(x), group).wait(ctx);
  const int ranks = group.size() * (group.size() + 1) / 2;
  for (std::int64_t i = 0; i < n; ++i)
    ASSERT_EQ(x[static_cast<std::size_t>(i)], static_cast<float>(ranks * (i % 1000))) << i << " of " << n;
}

// Values whose sum depends on the order of addition: magnitudes from 2^-30 to 2^30, cancellation, infinities, subnormals.
template <class T>
std::vector<T> awkward(int rank, std::int64_t n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  const Key key{.seed = 7, .id = static_cast<std::uint64_t>(rank)};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto exponent = static_cast<int>(bits(key, 2 * i) % 61) - 30;
    x[i] = std::ldexp(static_cast<T>(normal(key, 2 * i + 1)), exponent);
    if (i % 101 == 5) x[i] = (rank % 2 ? -1 : 1) * std::numeric_limits<T>::max() / 2;
    if (i % 101 == 6) x[i] = std::numeric_limits<T>::denorm_min() * static_cast<T>(rank);
    if (i % 101 == 7 && rank == 0) x[i] = std::numeric_limits<T>::infinity();
  }
  return x;
}

// Rank 0's result is handed round and compared byte for byte; then all of it once more.
template <class T>
void check_same_bits(Context& ctx, const Group& group, DType dtype, std::int64_t n) {
  auto first = awkward<T>(group.rank(), n);
  ASSERT_EQ(tensor_of(first).dtype, dtype);
  all_reduce(ctx, tensor_of(first), group).wait(ctx);
  auto of_root = first;
  broadcast(ctx, tensor_of(of_root), group, 0).wait(ctx);
  EXPECT_EQ(std::memcmp(first.data(), of_root.data(), first.size() * sizeof(T)), 0) << "rank " << group.rank() << ", " << n << " elements";
  for (int repeat = 0; repeat < 3; ++repeat) {
    auto again = awkward<T>(group.rank(), n);
    all_reduce(ctx, tensor_of(again), group).wait(ctx);
    EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(T)), 0) << "repeat " << repeat << ", " << n << " elements";
  }
}

// Large sums are added in rank order, whatever the transport.
template <class T>
void check_rank_order(Context& ctx, const Group& group, std::int64_t n) {
  auto expected = awkward<T>(0, n), x = awkward<T>(group.rank(), n);
  for (int r = 1; r < group.size(); ++r) {
    const auto other = awkward<T>(r, n);
    for (std::size_t i = 0; i < other.size(); ++i) expected[i] += other[i];
  }
  all_reduce(ctx, tensor_of(x), group).wait(ctx);
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(std::memcmp(&x[i], &expected[i], sizeof(T)), 0) << i << " of " << n << ": " << x[i] << " is not " << expected[i];
}

// Several sums of one group under way at once, waited for in another order on each rank.
inline void check_sums_at_once(Context& ctx, const Group& group, std::int64_t n) {
  constexpr std::size_t kSums = 5;
  std::vector<std::vector<float>> x;
  std::vector<Work> works;
  for (std::size_t i = 0; i < kSums; ++i)
    x.emplace_back(static_cast<std::size_t>(n), static_cast<float>(i * 10) + static_cast<float>(group.rank()));
  for (auto& one : x) works.push_back(all_reduce(ctx, tensor_of(one), group));
  for (std::size_t i = 0; i < kSums; ++i) works[(i * 2 + static_cast<std::size_t>(group.rank())) % kSums].wait(ctx);
  for (std::size_t i = 0; i < kSums; ++i)
    for (const float value : x[i])
      ASSERT_EQ(value,
                static_cast<float>(group.size()) * static_cast<float>(i * 10) + static_cast<float>(group.size() * (group.size() - 1) / 2));
}

inline void check_broadcast(Context& ctx, const Group& group, std::int64_t n, int root) {
  std::vector<std::int32_t> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::int32_t>(i) + 1'000'000 * group.rank();
  broadcast(ctx, tensor_of(x), group, root).wait(ctx);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(x[i], static_cast<std::int32_t>(i) + 1'000'000 * root) << i << " of " << n;
}

// Rank 0 sends to all others three messages with one tag; all receives are posted at once.
inline void check_message_order(Context& ctx, const Group& group) {
  constexpr int kMessages = 3;
  if (group.rank() == 0) {
    std::vector<std::vector<float>> out;
    for (int m = 0; m < kMessages; ++m) out.emplace_back(5000, static_cast<float>(m));
    std::vector<Work> works;
    for (int to = 1; to < group.size(); ++to)
      for (auto& message : out) works.push_back(send(ctx, tensor_of(message), group, to, 4));
    for (auto& work : works) work.wait(ctx);
    return;
  }
  std::vector<std::vector<float>> in(kMessages, std::vector<float>(5000, -1.0f));
  std::vector<Work> works;
  for (auto& message : in) works.push_back(receive(ctx, tensor_of(message), group, 0, 4));
  for (int m = kMessages - 1; m >= 0; --m) works[static_cast<std::size_t>(m)].wait(ctx);
  for (int m = 0; m < kMessages; ++m) EXPECT_EQ(in[static_cast<std::size_t>(m)].back(), static_cast<float>(m));
}

// Two tags, received in the order opposite to that of sending.
inline void check_tags(Context& ctx, const Group& group) {
  std::vector<float> a(10, 1.0f), b(10, 2.0f);
  if (group.rank() == 0) {
    Work first = send(ctx, tensor_of(a), group, 1, 11), second = send(ctx, tensor_of(b), group, 1, 12);
    first.wait(ctx);
    second.wait(ctx);
  }
  if (group.rank() != 1) return;
  std::vector<float> of_11(10), of_12(10);
  Work second = receive(ctx, tensor_of(of_12), group, 0, 12), first = receive(ctx, tensor_of(of_11), group, 0, 11);
  second.wait(ctx);
  first.wait(ctx);
  EXPECT_EQ(of_11, a);
  EXPECT_EQ(of_12, b);
}

// Every rank sends to the next and receives from the one before, all at once.
inline void check_exchange(Context& ctx, const Group& group, std::int64_t n) {
  const int next = (group.rank() + 1) % group.size(), previous = (group.rank() + group.size() - 1) % group.size();
  std::vector<double> out(static_cast<std::size_t>(n), group.rank()), in(static_cast<std::size_t>(n), -1);
  Work coming = receive(ctx, tensor_of(in), group, previous, 0), going = send(ctx, tensor_of(out), group, next, 0);
  going.wait(ctx);
  coming.wait(ctx);
  EXPECT_EQ(in, std::vector<double>(static_cast<std::size_t>(n), previous));
}

// Odd and even ranks, each in reverse order; a rank that is alone gets a group of one.
inline void check_split(Context& ctx, const Group& group) {
  const int odd = group.rank() % 2, members = (group.size() + 1 - odd) / 2;
  const Group half = group.split(odd, -group.rank(), Wire::data);
  ASSERT_EQ(half.size(), members);
  EXPECT_EQ(half.rank(), members - 1 - group.rank() / 2);
  std::vector<double> x{static_cast<double>(group.rank())};
  all_reduce(ctx, tensor_of(x), half).wait(ctx);
  EXPECT_EQ(x[0], members * (members - 1) + odd * members);
}

// The Works of these messages are dropped at once; at the end of the scope the message has arrived.
inline void check_unwaited(Context& ctx, const Group& group) {
  std::vector<float> x(30'000, static_cast<float>(group.rank()));
  {
    Work work;
    if (group.rank() == 0) work = send(ctx, tensor_of(x), group, 1, 0);
    if (group.rank() == 1) work = receive(ctx, tensor_of(x), group, 0, 0);
  }
  EXPECT_EQ(x.back(), group.rank() == 1 ? 0.0f : static_cast<float>(group.rank()));
  { [[maybe_unused]] const Work work = all_reduce(ctx, tensor_of(x), group); }
  EXPECT_EQ(x.back(), static_cast<float>(group.size() * (group.size() - 1) / 2 - 1));
}

// Errors of the last two ranks: everybody throws the lower one's.
inline void check_agree(Context& ctx, const Group& group) {
  const int guilty = std::max(0, group.size() - 2);
  std::optional<Error> mine;
  if (group.rank() >= guilty) mine.emplace(group.rank() == guilty ? Exit::data : Exit::memory, std::string(5000, 'x') + "é");
  try {
    agree(ctx, group, mine);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code, Exit::data);
    const std::string text = error.what();
    const std::string whole = error_line(guilty, Exit::data, mine && group.rank() == guilty ? mine->what() : std::string(5000, 'x') + "é");
    EXPECT_EQ(text.find(fmt::format("offramp: rank {} on {}: xxx", guilty, host_name())), 0u) << text.substr(0, 100);
    EXPECT_EQ(text, group.rank() == guilty ? whole : whole.substr(0, 4096));
  }
}

inline void check_axis(Context& ctx, const Mesh& mesh, const Group& axis, int at, int Coordinates::*coordinate) {
  EXPECT_EQ(axis.rank(), at);
  std::vector<double> x{static_cast<double>(mesh.world.rank())};
  all_reduce(ctx, tensor_of(x), axis).wait(ctx);
  double expected = 0;
  for (int other = 0; other < axis.size(); ++other) {
    Coordinates peer = mesh.at;
    peer.*coordinate = other;
    expected += rank_of(peer, mesh.degrees);
  }
  EXPECT_EQ(x[0], expected);
}

inline void check_mesh(Context& ctx, const Group& world, const Degrees& degrees) {
  const Mesh mesh(world, degrees);
  EXPECT_EQ(mesh.world_rank(), world.rank());
  EXPECT_EQ(mesh.tensor.size(), degrees.tensor);
  EXPECT_EQ(mesh.pipeline.size(), degrees.pipeline);
  EXPECT_EQ(mesh.data.size(), degrees.data);
  check_axis(ctx, mesh, mesh.tensor, mesh.at.tensor, &Coordinates::tensor);
  check_axis(ctx, mesh, mesh.pipeline, mesh.at.pipeline, &Coordinates::pipeline);
  check_axis(ctx, mesh, mesh.data, mesh.at.data, &Coordinates::data);
}

}  // namespace offramp
