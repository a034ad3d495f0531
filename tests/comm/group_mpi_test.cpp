// Groups over MPI, on as many ranks as mpirun starts.
#include <gtest/gtest.h>

#include <chrono>

#include "comm/mesh.h"
#include "mpi_main.h"
#include "part_checks.h"

namespace offramp {
namespace {

using testing_mpi::context;
using testing_mpi::world;

// Below and above the size where sums go piece by piece, MPI's eager limits, and the largest part that mpi_main.cpp sets.
const std::int64_t kSizes[] = {1, 3, 1000, 16'384, 20'000, 20'001, 70'003};

TEST(MpiGroup, AllReduceSumsOverAllRanks) {
  for (const auto n : kSizes) check_all_reduce(context(), world(), n);
}

TEST(MpiGroup, AllReduceGivesEveryRankTheSameBits) {
  for (const auto n : kSizes) check_same_bits<float>(context(), world(), DType::f32, n);
  for (const auto n : kSizes) check_same_bits<double>(context(), world(), DType::f64, n);
}

TEST(MpiGroup, LargeSumsAreAddedInRankOrder) {
  check_rank_order<float>(context(), world(), 70'003);
  check_rank_order<double>(context(), world(), 70'003);
}

TEST(MpiGroup, SeveralSumsAtOnce) {
  for (const auto n : kSizes) check_sums_at_once(context(), world(), n);
}

// Up to several pieces, which the largest part that mpi_main.cpp sets makes small.
TEST(MpiGroup, PartsAreAddedInRankOrderAndGathered) {
  for (const auto n : random_sizes(1, 9, 60'000 / world().size())) {
    check_parts<float, float>(context(), world(), n);
    check_parts<double, double>(context(), world(), n);
    check_parts<bf16, float>(context(), world(), n);
  }
  check_parts<float, float>(context(), world(), 70'000 / world().size());
}

TEST(MpiGroup, SumsOfBf16AreAddedInRankOrderAndRoundedOnce) {
  check_bf16_rounds_once(context(), world());
  for (const auto n : random_sizes(2, 9, 60'000)) check_whole<bf16, float>(context(), world(), n);
}

TEST(MpiGroup, PartsOfAnyType) {
  for (const auto n : kSizes) check_gather_of_i32(context(), world(), n);
}

TEST(MpiGroup, SumsGathersAndMessagesAtOnce) {
  for (const auto n : random_sizes(3, 12, 30'000)) check_mixture(context(), world(), n);
}

// A sum that is only polled through another group's progress() ends all the same.
TEST(MpiGroup, ProgressMovesSums) {
  const Group copy = world().split(0, world().rank(), Wire::data);
  std::vector<float> x(70'003, 1.0f);
  Work work = all_reduce(context(), tensor_of(x), copy);
  const auto start = std::chrono::steady_clock::now();
  while (x.back() != static_cast<float>(world().size()) && std::chrono::steady_clock::now() - start < std::chrono::seconds(10))
    world().progress();
  EXPECT_EQ(x.back(), static_cast<float>(world().size()));
  work.wait(context());
}

TEST(MpiGroup, Broadcast) {
  for (const auto n : kSizes)
    for (int root = 0; root < world().size(); ++root) check_broadcast(context(), world(), n, root);
}

TEST(MpiGroup, MessagesOfOneTagKeepTheirOrder) { check_message_order(context(), world()); }

TEST(MpiGroup, TagsDoNotMix) { check_tags(context(), world()); }

TEST(MpiGroup, LargeMessagesBothWaysAtOnce) {
  for (const auto n : kSizes) check_exchange(context(), world(), n);
}

TEST(MpiGroup, EmptyMessages) { check_exchange(context(), world(), 0); }

TEST(MpiGroup, SplitOrdersByKey) { check_split(context(), world()); }

TEST(MpiGroup, AWorkThatNobodyWaitsForIsWaitedFor) { check_unwaited(context(), world()); }

TEST(MpiGroup, AgreeOnNothing) { EXPECT_NO_THROW(agree(context(), world(), std::nullopt)); }

TEST(MpiGroup, AgreeOnTheLowestRanksError) { check_agree(context(), world()); }

TEST(MpiGroup, AShorterMessageThanExpectedIsAnError) {
  if (world().rank() == 1) {
    std::vector<float> x(3);
    send(context(), Tensor(x.data(), {3}, DType::f32), world(), 0, 0).wait(context());
  }
  if (world().rank() == 0) {
    std::vector<float> x(4);
    Work work = receive(context(), Tensor(x.data(), {4}, DType::f32), world(), 1, 0);
    EXPECT_THROW(work.wait(context()), Error);
  }
}

TEST(MpiGroup, ALongerMessageThanExpectedIsACommunicationError) {
  if (world().rank() == 1) {
    std::vector<float> x(5);
    send(context(), Tensor(x.data(), {5}, DType::f32), world(), 0, 0).wait(context());
  }
  if (world().rank() == 0) {
    std::vector<float> x(4);
    Work work = receive(context(), Tensor(x.data(), {4}, DType::f32), world(), 1, 0);
    try {
      work.wait(context());
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Exit::communication);
      EXPECT_NE(std::string(error.what()).find("receive of 16 bytes from rank 1, tag 0"), std::string::npos) << error.what();
    }
  }
}

// Two ranks that only poll progress() between their own work exchange messages beyond MPI's eager limits.
TEST(MpiGroup, ProgressMovesMessages) {
  if (world().rank() > 1) return;
  constexpr std::size_t kElements = 1 << 20;
  const int peer = 1 - world().rank();
  std::vector<float> in(kElements, -1.0f), out(kElements, static_cast<float>(world().rank()));
  Work coming = receive(context(), tensor_of(in), world(), peer, 0), going = send(context(), tensor_of(out), world(), peer, 0);
  const auto start = std::chrono::steady_clock::now();
  while (in.back() != static_cast<float>(peer) && std::chrono::steady_clock::now() - start < std::chrono::seconds(10)) world().progress();
  EXPECT_EQ(in.back(), static_cast<float>(peer)) << "nothing arrived until somebody waited for it";
  coming.wait(context());
  going.wait(context());
  EXPECT_EQ(in, std::vector<float>(kElements, static_cast<float>(peer)));
}

// Every way to divide the ranks: a sum over an axis adds exactly the ranks along it.
TEST(MpiGroup, MeshGroupsFollowTheAxes) {
  for (int tensor = 1; tensor <= world().size(); ++tensor)
    for (int pipeline = 1; pipeline <= world().size(); ++pipeline)
      if (world().size() % (tensor * pipeline) == 0)
        check_mesh(context(), world(), {.tensor = tensor, .pipeline = pipeline, .data = world().size() / tensor / pipeline});
}

}  // namespace
}  // namespace offramp
