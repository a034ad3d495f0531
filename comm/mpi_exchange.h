// Sums and gathers over MPI, internal to comm/mpi.cpp. A tensor is cut into a part for each rank. In the scatter every rank gets
// the others' values of its own part and adds them in rank order; in the gather it hands its part to all others. all_reduce is
// both, reduce_scatter the first, all_gather the second: together the bytes of a ring, in two messages' latency. It goes piece by
// piece (a piece of all parts at once), so that some travel while another is added, and those under way are the memory that it needs.
#pragma once
#define OMPI_SKIP_MPICXX 1  // the C interface only: the C++ one of old needs a library of its own
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "comm/group.h"

namespace offramp {

void check_mpi(int status, const std::string& what);
MPI_Datatype mpi_type(DType dtype);  // bf16 as what moves it: MPI can add none

// Of a tensor of so many bytes over so many ranks. Where progress is made only between operations, each call moves a few
// fragments of every message under way, so many pieces must be; small ones fit in a core's cache, too small ones cost latency.
std::size_t piece_bytes(std::size_t bytes, int ranks);
// For one other rank's values of this rank's part of a piece, whatever the element type.
std::size_t slot_bytes(std::size_t bytes, int ranks);

class Exchange;

// The exchanges under way in this process, and the memory they borrow. It is kept, so that a step allocates none after the first:
// an exchange keeps its memory until its Work ends, which makes what a step needs at once the same in every step.
class Exchanges {
 public:
  struct Memory {
    std::unique_ptr<std::byte[]> data;
    std::size_t bytes = 0;
  };
  void add(Exchange* exchange) { under_way_.push_back(exchange); }
  void remove(Exchange* exchange);
  // Moves all of them. Whoever waits for anything calls it: the peer may wait for another one first.
  void advance();
  std::uint64_t moved() const { return moved_; }  // steps so far

  Memory borrow(std::size_t bytes);  // at least so many: the smallest that is free
  void give_back(Memory memory);
  std::size_t taken() const { return taken_; }  // bytes, from the system

 private:
  std::vector<Exchange*> under_way_;
  std::vector<Memory> free_;
  std::uint64_t moved_ = 0;
  std::size_t taken_ = 0;
};

class Exchange : public Work::State {
 public:
  static constexpr int kLanes = 8;  // pieces under way at once: half of a tensor of middling size
  struct Place {
    MPI_Comm comm = MPI_COMM_NULL;  // with no other traffic than exchanges
    int rank = 0, size = 1;
    std::uint64_t number = 0;       // of this exchange in its group, the same on every rank
    std::int64_t largest_part = 1;  // elements of a piece, at most (but one a rank)
  };
  struct Task {
    Tensor whole;         // what is added, what is gathered, or both
    std::byte* own_part;  // this rank's, where its sum goes and what the others get; maybe that part of `whole` itself
    bool adds, gathers;
  };
  // This rank's part of `whole` itself.
  static std::byte* part_of(Tensor whole, const Place& place);

  // Starts nothing yet: the first advance() does.
  Exchange(const Task& task, const Place& place, std::shared_ptr<Exchanges> all, std::string text);
  ~Exchange() override;
  bool test() override;
  std::uint64_t moved() const override;
  std::uint64_t advance();  // how many steps it made

 private:
  enum class Phase { idle, scatter, gather };
  // Pieces i, i + kLanes, i + 2 kLanes, ...: the same on every rank, so that messages of a lane match in order.
  struct Lane {
    std::int64_t piece = 0;
    Phase phase = Phase::idle;
    std::byte* theirs = nullptr;  // [size - 1, part of a piece]: what the others have for this rank's part
    std::vector<MPI_Request> requests;
  };
  struct Share {  // of a piece: what lies in one rank's part
    std::byte* data;
    int elements;
  };
  bool step(int lane_index);
  bool travelled(Lane& lane);
  void scatter(Lane& lane, int tag);
  void add(const Lane& lane);
  void gather(Lane& lane, int tag);
  Share share(std::int64_t piece, int rank) const;  // in `whole`
  Share own_share(std::int64_t piece) const;        // in `own_part`
  std::byte* slot(const Lane& lane, int rank) const;
  bool done() const;

  Task task_;
  Place place_;
  std::shared_ptr<Exchanges> all_;
  std::int64_t share_elements_ = 1, pieces_ = 0, slot_bytes_ = 0;
  Exchanges::Memory memory_;
  Lane lanes_[kLanes];
};

}  // namespace offramp
