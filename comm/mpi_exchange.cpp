#include "comm/mpi_exchange.h"

#include <algorithm>
#include <cstring>

#include "comm/rank_order.h"

namespace offramp {
namespace {

// All ranks' parts of a piece are equally long (the last piece's aside), and their slots aligned, whatever the element type.
std::size_t share_bytes(std::size_t bytes, int ranks) {
  return aligned((piece_bytes(bytes, ranks) + static_cast<std::size_t>(ranks) - 1) / static_cast<std::size_t>(ranks));
}

std::int64_t part_begin(std::int64_t elements, int rank, int ranks) { return elements * rank / ranks; }

}  // namespace

std::size_t piece_bytes(std::size_t bytes, int ranks) {
  constexpr std::size_t kKiB = 1024, kPieces = 16, kLeast = 256 * kKiB, kMost = 4096 * kKiB, kLeastShare = 64 * kKiB;
  return std::max(std::clamp(bytes / kPieces, kLeast, kMost), static_cast<std::size_t>(ranks) * kLeastShare);
}

std::size_t slot_bytes(std::size_t bytes, int ranks) {
  const std::size_t largest_part = bytes / static_cast<std::size_t>(ranks) + sizeof(double);  // parts differ by an element
  return std::min(share_bytes(bytes, ranks), aligned(largest_part));
}

// ---- Exchanges

void Exchanges::advance() {
  for (Exchange* exchange : under_way_) moved_ += exchange->advance();
}

void Exchanges::remove(Exchange* exchange) { std::erase(under_way_, exchange); }

Exchanges::Memory Exchanges::borrow(std::size_t bytes) {
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

void Exchanges::give_back(Memory memory) { free_.push_back(std::move(memory)); }

// ---- Exchange

std::byte* Exchange::part_of(Tensor whole, const Place& place) {
  return whole.data + static_cast<std::size_t>(part_begin(whole.elements(), place.rank, place.size)) * size_of(whole.dtype);
}

Exchange::Exchange(const Task& task, const Place& place, std::shared_ptr<Exchanges> all, std::string text)
    : task_(task), place_(place), all_(std::move(all)) {
  what = std::move(text);
  const Tensor& whole = task.whole;
  const auto in_memory = static_cast<std::int64_t>(share_bytes(whole.bytes(), place.size) / size_of(whole.dtype));
  share_elements_ = std::min(in_memory, std::max<std::int64_t>(1, place.largest_part / place.size));
  const std::int64_t largest = (whole.elements() + place.size - 1) / place.size;
  pieces_ = (largest + share_elements_ - 1) / share_elements_;
  slot_bytes_ = static_cast<std::int64_t>(slot_bytes(whole.bytes(), place.size));
  const std::int64_t lane_bytes = task.adds ? slot_bytes_ * (place.size - 1) : 0;
  if (task.adds) memory_ = all_->borrow(static_cast<std::size_t>(lane_bytes * kLanes));
  for (int i = 0; i < kLanes; ++i) {
    lanes_[i].piece = i;
    lanes_[i].theirs = memory_.data.get() + i * lane_bytes;
  }
  all_->add(this);
}

// MPI may still write to the memory of an exchange that was given up: it stays.
Exchange::~Exchange() {
  all_->remove(this);
  if (!memory_.data) return;
  if (done())
    all_->give_back(std::move(memory_));
  else
    (void)memory_.data.release();
}

bool Exchange::test() {
  all_->advance();
  return done();
}

std::uint64_t Exchange::moved() const { return all_->moved(); }

std::uint64_t Exchange::advance() {
  std::uint64_t steps = 0;
  for (int i = 0; i < kLanes; ++i)
    while (step(i)) ++steps;
  return steps;
}

bool Exchange::done() const {
  return std::all_of(std::begin(lanes_), std::end(lanes_), [this](const Lane& l) { return l.piece >= pieces_; });
}

bool Exchange::step(int lane_index) {
  constexpr std::uint64_t kNumbers = 2048;  // fewer exchanges are ever under way, and tags stay within the 32,767 that MPI promises
  const int tag = (static_cast<int>(place_.number % kNumbers) * kLanes + lane_index) * 2;
  Lane& lane = lanes_[lane_index];
  if (lane.piece >= pieces_ || !travelled(lane)) return false;
  const Phase was = lane.phase;
  if (was == Phase::scatter) add(lane);
  if (was == Phase::idle && task_.adds) {
    scatter(lane, tag);
    lane.phase = Phase::scatter;
  } else if (was != Phase::gather && task_.gathers) {
    gather(lane, tag + 1);
    lane.phase = Phase::gather;
  } else {
    lane.piece += kLanes;
    lane.phase = Phase::idle;
  }
  return true;
}

bool Exchange::travelled(Lane& lane) {
  int all = 1;
  if (!lane.requests.empty())
    check_mpi(MPI_Testall(static_cast<int>(lane.requests.size()), lane.requests.data(), &all, MPI_STATUSES_IGNORE), what);
  if (all) lane.requests.clear();
  return all;
}

Exchange::Share Exchange::share(std::int64_t piece, int rank) const {
  const std::int64_t n = task_.whole.elements(), end = part_begin(n, rank + 1, place_.size);
  const std::int64_t first = std::min(part_begin(n, rank, place_.size) + piece * share_elements_, end);
  return {task_.whole.data + static_cast<std::size_t>(first) * size_of(task_.whole.dtype),
          static_cast<int>(std::min(share_elements_, end - first))};
}

Exchange::Share Exchange::own_share(std::int64_t piece) const {
  const std::int64_t offset = piece * share_elements_ * static_cast<std::int64_t>(size_of(task_.whole.dtype));
  return {task_.own_part + offset, share(piece, place_.rank).elements};
}

std::byte* Exchange::slot(const Lane& lane, int rank) const { return lane.theirs + slot_bytes_ * (rank - (rank > place_.rank)); }

// Peers in order of distance, so that not everybody sends to rank 0 first.
void Exchange::scatter(Lane& lane, int tag) {
  const auto type = mpi_type(task_.whole.dtype);
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

void Exchange::add(const Lane& lane) {
  const Share own = share(lane.piece, place_.rank);
  std::vector<const std::byte*> of(static_cast<std::size_t>(place_.size));
  for (int r = 0; r < place_.size; ++r) of[static_cast<std::size_t>(r)] = r == place_.rank ? own.data : slot(lane, r);
  add_in_rank_order(own_share(lane.piece).data, of, own.elements, task_.whole.dtype);
}

void Exchange::gather(Lane& lane, int tag) {
  const auto type = mpi_type(task_.whole.dtype);
  const Share own = own_share(lane.piece), to = share(lane.piece, place_.rank);
  lane.requests.resize(2 * static_cast<std::size_t>(place_.size - 1), MPI_REQUEST_NULL);
  auto request = lane.requests.begin();
  for (int d = 1; d < place_.size; ++d) {
    const int peer = (place_.rank + d) % place_.size;
    const Share in = share(lane.piece, peer);
    check_mpi(MPI_Irecv(in.data, in.elements, type, peer, tag, place_.comm, &*request++), what);
    check_mpi(MPI_Isend(own.data, own.elements, type, peer, tag, place_.comm, &*request++), what);
  }
  if (own.data != to.data) std::memcpy(to.data, own.data, static_cast<std::size_t>(own.elements) * size_of(task_.whole.dtype));
}

}  // namespace offramp
