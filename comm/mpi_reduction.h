// Large sums over MPI, internal to comm/mpi.cpp. A tensor is summed piece by piece: each rank gets its share of a piece from
// all others, adds them in rank order, and hands the sum back to all. That is as many bytes as a ring sends, in two messages'
// latency; the sums are those of the other transports bit for bit, whatever the pieces; and the memory needed is two pieces.
#pragma once
#define OMPI_SKIP_MPICXX 1  // the C interface only: the C++ one of old needs a library of its own
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "comm/group.h"

namespace offramp {

void check_mpi(int status, const std::string& what);
MPI_Datatype mpi_type(DType dtype);

// Of a sum over so many ranks. Small pieces fit in a core's cache and overlap better; but where progress is made only between
// units of computation, each piece costs a few of them, and small messages cost latency. So there are eight, of
// 1 to 16 MiB.
std::size_t piece_bytes(std::size_t bytes, int ranks);
// For one other rank's values of this rank's share of a piece.
std::size_t slot_bytes(std::int64_t piece, DType dtype, int ranks);

class Reduction;

// The sums under way in this process, and the memory they borrow. It is kept, so that a step allocates none after the first:
// a sum keeps its memory until its Work ends, which makes what a step needs at once the same in every step.
class Reductions {
 public:
  struct Memory {
    std::unique_ptr<std::byte[]> data;
    std::size_t bytes = 0;
  };
  void add(Reduction* reduction) { under_way_.push_back(reduction); }
  void remove(Reduction* reduction);
  // Moves all of them. Whoever waits for anything calls it: the peer may wait for another sum first.
  void advance();
  std::uint64_t moved() const { return moved_; }  // steps of sums so far

  Memory borrow(std::size_t bytes);  // at least so many: the smallest that is free
  void give_back(Memory memory);
  std::size_t taken() const { return taken_; }  // bytes, from the system

 private:
  std::vector<Reduction*> under_way_;
  std::vector<Memory> free_;
  std::uint64_t moved_ = 0;
  std::size_t taken_ = 0;
};

class Reduction : public Work::State {
 public:
  static constexpr int kLanes = 2;  // pieces under way at once: one travels while the other is added
  struct Place {
    MPI_Comm comm = MPI_COMM_NULL;  // with no other traffic than reductions
    int rank = 0, size = 1;
    std::uint64_t number = 0;        // of this reduction in its group, the same on every rank
    std::int64_t largest_piece = 1;  // elements
  };
  // Starts nothing yet: the first advance() does.
  Reduction(Tensor inout, const Place& place, std::shared_ptr<Reductions> all, std::string text);
  ~Reduction() override;
  bool test() override;
  std::uint64_t moved() const override;
  std::uint64_t advance();  // how many steps it made

 private:
  enum class Phase { idle, scatter, gather };
  // Pieces i, i + kLanes, i + 2 kLanes, ...: the same on every rank, so that messages of a lane match in order.
  struct Lane {
    std::int64_t piece = 0;
    Phase phase = Phase::idle;
    std::byte* theirs = nullptr;  // [size - 1, share of a piece]: what the others have for this rank's share
    std::vector<MPI_Request> requests;
  };
  struct Share {
    std::byte* data;
    int elements;
  };
  bool step(int lane_index);
  bool travelled(Lane& lane);
  void scatter(Lane& lane, int tag);
  void gather(Lane& lane, int tag);
  template <class T>
  void add(const Lane& lane);
  Share share(std::int64_t piece, int rank) const;
  std::byte* slot(const Lane& lane, int rank) const;
  bool done() const;

  Tensor inout_;
  Place place_;
  std::shared_ptr<Reductions> all_;
  std::int64_t pieces_ = 0, slot_bytes_ = 0;
  Reductions::Memory memory_;
  Lane lanes_[kLanes];
};

}  // namespace offramp
