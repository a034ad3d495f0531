#include "tensor/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>

#include "tensor/check.h"

namespace offramp {
namespace {

// No processor of today maps an address whose upper bits are neither all equal nor tagged: a touch faults at once.
constexpr std::uintptr_t kNowhere = 0xdead'0000'0000'0000;
constexpr const char* kReduce = "reduce the model, training.micro_batch_size or training.sequence_length, or raise the parallel sizes";
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::atomic<std::size_t>& allocation_count() {
  static std::atomic<std::size_t> count{0};
  return count;
}

std::byte* offset(std::byte* memory, std::size_t bytes) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(memory) + bytes);
}

}  // namespace

// A batch system limits a job by a control group somewhere above the process's own (version 2: memory.max, "max" for none).
std::size_t host_memory() {
  std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line) && !line.starts_with("0::")) {
  }
  const std::filesystem::path root = "/sys/fs/cgroup";
  for (std::filesystem::path group = line.size() > 3 ? line.substr(3) : "/"; !group.empty(); group = group.parent_path()) {
    std::ifstream limit(root / group.relative_path() / "memory.max");
    std::size_t allowed = 0;
    if (limit >> allowed) bytes = std::min(bytes, allowed);
    if (group == group.root_path()) break;
  }
  return bytes;
}

std::size_t system_allocations() { return allocation_count(); }

// Fresh mappings are zero, and cost no memory until they are touched.
Arena::Mapping Arena::map_host_memory(std::size_t bytes) {
  ++allocation_count();
  void* memory = bytes > host_memory() ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail(Exit::memory, "{} bytes of tensor memory wanted, this host has {} bytes in all; {}, or run fewer ranks on this host", bytes,
         host_memory(), kReduce);
  }
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: without it, the same at more TLB misses
  return {static_cast<std::byte*>(memory), {bytes}};
}

void Arena::Unmap::operator()(std::byte* memory) const noexcept { munmap(memory, bytes); }

Arena::Arena(Backing backing, std::size_t bytes, int region) : capacity_(aligned(bytes)) {
  if (backing == Backing::none) {
    memory_ = reinterpret_cast<std::byte*>(kNowhere + static_cast<std::uintptr_t>(region) * kUnlimited);
  } else if (bytes > 0) {
    owned_ = map_host_memory(capacity_);
    memory_ = owned_.get();
  }
}

Arena::Arena(std::byte* memory, std::size_t bytes, std::string name) : memory_(memory), capacity_(bytes), name_(std::move(name)) {
  OFFRAMP_CHECK(reinterpret_cast<std::uintptr_t>(memory) % kAlignment == 0, "[arena] {}: memory is not aligned to {}", name_, kAlignment);
}

Arena& Arena::operator=(Arena&& other) noexcept {
  owned_ = std::move(other.owned_);
  memory_ = std::exchange(other.memory_, nullptr);
  capacity_ = std::exchange(other.capacity_, 0);
  used_ = std::exchange(other.used_, 0);
  peak_ = std::exchange(other.peak_, 0);
  largest_ = std::exchange(other.largest_, 0);
  name_.swap(other.name_);
  return *this;
}

std::byte* Arena::bytes(std::size_t count) {
  largest_ = std::max(largest_, count);
  const bool fits = count <= capacity_ && aligned(count) <= capacity_ - used_;
  if (!fits && capacity_ == kUnlimited) fail(Exit::memory, "a rank would need more than {} TB: {}", kUnlimited >> 40, kReduce);
  OFFRAMP_CHECK(fits, "[arena] {}: {} bytes wanted, {} of {} in use", name_, count, used_, capacity_);
  std::byte* memory = offset(memory_, used_);
  used_ += aligned(count);
  peak_ = std::max(peak_, used_);
  return memory;
}

Tensor Arena::tensor(Shape shape, DType dtype) {
  OFFRAMP_CHECK(dtype != DType::none, "[arena] {}: a tensor {} without an element type", name_, to_text(shape));
  const auto elements = static_cast<std::size_t>(shape.elements());
  return {bytes(std::min(elements, kUnlimited) * size_of(dtype)), shape, dtype};  // past the limit no product may wrap round
}

void Arena::release(std::size_t mark) noexcept { used_ = std::min(used_, mark); }

Pool::Pool(Arena& arena, std::string name, std::size_t slab_bytes, int count)
    : name_(std::move(name)), slab_bytes_(aligned(slab_bytes)), taken_(static_cast<std::size_t>(std::max(count, 0)), false) {
  OFFRAMP_CHECK(count >= 0, "[pool] {}: {} slabs", name_, count);
  memory_ = arena.bytes(slab_bytes_ * taken_.size());
}

int Pool::take(const Avoid& avoid) {
  int chosen = -1;
  for (int slab = 0; slab < count(); ++slab) {
    if (taken_[static_cast<std::size_t>(slab)]) continue;
    const bool welcome = !avoid || !avoid(slab);
    if (chosen < 0 || welcome) chosen = slab;
    if (welcome) break;
  }
  OFFRAMP_CHECK(chosen >= 0, "[pool] {}: all {} slabs of {} bytes are taken", name_, count(), slab_bytes_);
  taken_[static_cast<std::size_t>(chosen)] = true;
  peak_ = std::max(peak_, chosen + 1);
  return chosen;
}

void Pool::give(int slab) {
  OFFRAMP_CHECK(slab >= 0 && slab < count() && taken_[static_cast<std::size_t>(slab)], "[pool] {}: slab {} of {} is not taken", name_, slab,
                count());
  taken_[static_cast<std::size_t>(slab)] = false;
}

std::byte* Pool::memory(int slab) const {
  OFFRAMP_CHECK(slab >= 0 && slab < count(), "[pool] {}: no slab {} of {}", name_, slab, count());
  return offset(memory_, slab_bytes_ * static_cast<std::size_t>(slab));
}

}  // namespace offramp
