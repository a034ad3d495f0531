#include "comm/mpi_reduction.h"

#include <algorithm>
#include <array>

namespace offramp {
namespace {

// out = of[0] + of[1] + ...; a block at a time, so that out may be one of them.
template <class T>
void add_in_order(T* out, const std::vector<const T*>& of, std::int64_t n) {
  constexpr std::int64_t kBlock = 1024;
  std::array<T, kBlock> sum;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    std::copy_n(of[0] + begin, count, sum.data());
    for (std::size_t r = 1; r < of.size(); ++r) {
      const T* x = of[r] + begin;
      for (std::int64_t i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] += x[i];
    }
    std::copy_n(sum.data(), count, out + begin);
  }
}

}  // namespace

std::size_t piece_bytes(std::size_t bytes, int ranks) {
  constexpr std::size_t kPieces = 8, kLeast = std::size_t{1} << 20, kMost = std::size_t{16} << 20, kLeastShare = std::size_t{64} << 10;
  return std::max(std::clamp(bytes / kPieces, kLeast, kMost), static_cast<std::size_t>(ranks) * kLeastShare);
}

std::size_t slot_bytes(std::int64_t piece, DType dtype, int ranks) {
  return aligned(static_cast<std::size_t>(piece / ranks + 1) * size_of(dtype));
}

// ---- Reductions

void Reductions::advance() {
  for (Reduction* reduction : under_way_) moved_ += reduction->advance();
}

void Reductions::remove(Reduction* reduction) { std::erase(under_way_, reduction); }

Reductions::Memory Reductions::borrow(std::size_t bytes) {
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it)
    if (it->bytes >= bytes && (best == free_.end() || it->bytes < best->bytes)) best = it;
  if (best == free_.end()) {
    taken_ += bytes;
    return {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
  }
  Memory memory = std::move(*best);
  free_.erase(best);
  return memory;
}

void Reductions::give_back(Memory memory) { free_.push_back(std::move(memory)); }

// ---- Reduction

Reduction::Reduction(Tensor inout, const Place& place, std::shared_ptr<Reductions> all, std::string text)
    : inout_(inout), place_(place), all_(std::move(all)) {
  what = std::move(text);
  pieces_ = (inout.elements() + place.largest_piece - 1) / place.largest_piece;
  const std::int64_t piece = std::min(inout.elements(), place.largest_piece);
  slot_bytes_ = static_cast<std::int64_t>(slot_bytes(piece, inout.dtype, place.size));
  const std::int64_t lane_bytes = slot_bytes_ * (place.size - 1);
  memory_ = all_->borrow(static_cast<std::size_t>(lane_bytes * kLanes));
  for (int i = 0; i < kLanes; ++i) {
    lanes_[i].piece = i;
    lanes_[i].theirs = memory_.data.get() + i * lane_bytes;
  }
  all_->add(this);
}

// MPI may still write to the memory of a reduction that was given up: it stays.
Reduction::~Reduction() {
  all_->remove(this);
  if (done())
    all_->give_back(std::move(memory_));
  else
    (void)memory_.data.release();
}

bool Reduction::test() {
  all_->advance();
  return done();
}

std::uint64_t Reduction::moved() const { return all_->moved(); }

std::uint64_t Reduction::advance() {
  std::uint64_t steps = 0;
  for (int i = 0; i < kLanes; ++i)
    while (step(i)) ++steps;
  return steps;
}

bool Reduction::done() const {
  return std::all_of(std::begin(lanes_), std::end(lanes_), [this](const Lane& l) { return l.piece >= pieces_; });
}

bool Reduction::step(int lane_index) {
  constexpr std::uint64_t kNumbers = 4096;  // fewer reductions are ever under way, and tags stay below MPI's least upper bound
  const int tag = (static_cast<int>(place_.number % kNumbers) * kLanes + lane_index) * 2;
  Lane& lane = lanes_[lane_index];
  if (lane.piece >= pieces_ || !travelled(lane)) return false;
  switch (lane.phase) {
    case Phase::idle:
      scatter(lane, tag);
      lane.phase = Phase::scatter;
      break;
    case Phase::scatter:
      inout_.dtype == DType::f32 ? add<float>(lane) : add<double>(lane);
      gather(lane, tag + 1);
      lane.phase = Phase::gather;
      break;
    case Phase::gather:
      lane.piece += kLanes;
      lane.phase = Phase::idle;
      break;
  }
  return true;
}

bool Reduction::travelled(Lane& lane) {
  int all = 1;
  if (!lane.requests.empty())
    check_mpi(MPI_Testall(static_cast<int>(lane.requests.size()), lane.requests.data(), &all, MPI_STATUSES_IGNORE), what);
  if (all) lane.requests.clear();
  return all;
}

Reduction::Share Reduction::share(std::int64_t piece, int rank) const {
  const std::int64_t begin = piece * place_.largest_piece, count = std::min(place_.largest_piece, inout_.elements() - begin);
  const std::int64_t first = count * rank / place_.size, last = count * (rank + 1) / place_.size;
  return {inout_.data + static_cast<std::size_t>(begin + first) * size_of(inout_.dtype), static_cast<int>(last - first)};
}

std::byte* Reduction::slot(const Lane& lane, int rank) const { return lane.theirs + slot_bytes_ * (rank - (rank > place_.rank)); }

// Peers in order of distance, so that not everybody sends to rank 0 first.
void Reduction::scatter(Lane& lane, int tag) {
  const auto type = mpi_type(inout_.dtype);
  const int own = share(lane.piece, place_.rank).elements;
  lane.requests.resize(2 * static_cast<std::size_t>(place_.size - 1), MPI_REQUEST_NULL);
  auto request = lane.requests.begin();
  for (int d = 1; d < place_.size; ++d) {
    const int peer = (place_.rank + d) % place_.size;
    check_mpi(MPI_Irecv(slot(lane, peer), own, type, peer, tag, place_.comm, &*request++), what);
  }
  for (int d = 1; d < place_.size; ++d) {
    const int peer = (place_.rank + d) % place_.size;
    const Share out = share(lane.piece, peer);
    check_mpi(MPI_Isend(out.data, out.elements, type, peer, tag, place_.comm, &*request++), what);
  }
}

void Reduction::gather(Lane& lane, int tag) {
  const auto type = mpi_type(inout_.dtype);
  const Share own = share(lane.piece, place_.rank);
  lane.requests.resize(2 * static_cast<std::size_t>(place_.size - 1), MPI_REQUEST_NULL);
  auto request = lane.requests.begin();
  for (int d = 1; d < place_.size; ++d) {
    const int peer = (place_.rank + d) % place_.size;
    const Share in = share(lane.piece, peer);
    check_mpi(MPI_Irecv(in.data, in.elements, type, peer, tag, place_.comm, &*request++), what);
    check_mpi(MPI_Isend(own.data, own.elements, type, peer, tag, place_.comm, &*request++), what);
  }
}

template <class T>
void Reduction::add(const Lane& lane) {
  const Share own = share(lane.piece, place_.rank);
  std::vector<const T*> of(static_cast<std::size_t>(place_.size));
  for (int r = 0; r < place_.size; ++r)
    of[static_cast<std::size_t>(r)] = reinterpret_cast<const T*>(r == place_.rank ? own.data : slot(lane, r));
  add_in_order(reinterpret_cast<T*>(own.data), of, own.elements);
}

}  // namespace offramp
