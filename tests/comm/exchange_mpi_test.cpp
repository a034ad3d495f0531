// Sums over MPI: how they are cut, and the memory they keep.
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "comm/mpi_exchange.h"
#include "mpi_main.h"
#include "part_checks.h"

namespace offramp {
namespace {

using testing_mpi::context;
using testing_mpi::world;

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(Exchanges, PiecesGrowWithTheTensorAndTheGroup) {
  EXPECT_EQ(piece_bytes(kMiB, 2), kMiB / 4);
  EXPECT_EQ(piece_bytes(32 * kMiB, 2), 2 * kMiB);
  EXPECT_EQ(piece_bytes(1024 * kMiB, 2), 4 * kMiB);
  EXPECT_EQ(piece_bytes(kMiB, 64), 4 * kMiB) << "64 KiB a rank at least";
}

TEST(Exchanges, LendTheSmallestMemoryThatIsEnough) {
  Exchanges all;
  auto small = all.borrow(100), large = all.borrow(1000);
  const std::byte *of_small = small.data.get(), *of_large = large.data.get();
  all.give_back(std::move(large));
  all.give_back(std::move(small));
  EXPECT_EQ(all.borrow(90).data.get(), of_small);
  EXPECT_EQ(all.borrow(101).data.get(), of_large);
  EXPECT_EQ(all.taken(), 1100u);
  EXPECT_EQ(all.borrow(2000).bytes, 2000u);
  EXPECT_EQ(all.taken(), 3100u);
}

class OwnCommunicator : public testing::Test {
 protected:
  OwnCommunicator() { MPI_Comm_dup(MPI_COMM_WORLD, &comm_); }
  ~OwnCommunicator() override { MPI_Comm_free(&comm_); }

  // Sums of all sizes at once, each element a sum over the ranks.
  void step(const std::shared_ptr<Exchanges>& all, const std::vector<std::int64_t>& sizes) {
    std::vector<std::vector<float>> values;
    std::vector<Work> works;
    for (const std::int64_t n : sizes) values.emplace_back(static_cast<std::size_t>(n), static_cast<float>(world().rank()));
    for (std::vector<float>& x : values) {
      const Exchange::Place place{comm_, world().rank(), world().size(), number_++, std::int64_t{1} << 30};
      const Exchange::Task task{tensor_of(x), Exchange::part_of(tensor_of(x), place), true, true};
      works.emplace_back(std::make_unique<Exchange>(task, place, all, "a sum"));
    }
    for (Work& work : works) work.wait(context());
    const int sum = world().size() * (world().size() - 1) / 2;
    for (const std::vector<float>& x : values) EXPECT_EQ(x, std::vector<float>(x.size(), static_cast<float>(sum)));
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  std::uint64_t number_ = 0;
};

TEST_F(OwnCommunicator, StepsAfterTheFirstTakeNoMemory) {
  const std::vector<std::int64_t> sizes = {10'000, 700'000, 10'001, 300'000};
  const auto all = std::make_shared<Exchanges>();
  step(all, sizes);
  std::size_t planned = 0;
  for (const std::int64_t n : sizes) planned += all_reduce_memory(static_cast<std::size_t>(n) * sizeof(float), world().size());
  EXPECT_EQ(all->taken(), planned);
  const std::uint64_t moved = all->moved();
  EXPECT_GT(moved, 0u);
  for (int again = 0; again < 3; ++again) step(all, sizes);
  EXPECT_EQ(all->taken(), planned);
  EXPECT_EQ(all->moved(), 4 * moved);
}

// What one borrows depends on bytes alone, and a gather borrows nothing.
TEST_F(OwnCommunicator, PartsBorrowWhatIsPlanned) {
  for (const std::int64_t part : {1, 17, 1000, 100'001, 300'000}) {
    std::vector<bf16> x(static_cast<std::size_t>(part * world().size()), bf16(1.0f)), out(static_cast<std::size_t>(part));
    const auto sums = std::make_shared<Exchanges>(), gathers = std::make_shared<Exchanges>();
    const auto place = [&] { return Exchange::Place{comm_, world().rank(), world().size(), number_++, std::int64_t{1} << 30}; };
    const Tensor whole = tensor_of(x);
    Work(std::make_unique<Exchange>(Exchange::Task{whole, tensor_of(out).data, true, false}, place(), sums, "a sum")).wait(context());
    Work(std::make_unique<Exchange>(Exchange::Task{whole, tensor_of(out).data, false, true}, place(), gathers, "a gather")).wait(context());
    EXPECT_EQ(sums->taken(), reduce_scatter_memory(whole.bytes(), world().size()));
    EXPECT_EQ(gathers->taken(), 0u);
    for (const bf16 value : x) ASSERT_EQ(static_cast<float>(value), static_cast<float>(world().size()));
  }
}

}  // namespace
}  // namespace offramp
