// Memory. One allocation at the start of a job, then nothing: an Arena is a bump allocator over it, a Pool hands out equal
// slabs of it. Backing::none has no memory behind it: plan mode hands out addresses that fault when touched, so the planned
// peak and the measured peak come from the same lines.
//
//   Arena arena(Backing::host, bytes);
//   Tensor weights = arena.tensor({rows, columns}, DType::f32);      // lives as long as the arena
//   { Scratch s(ctx); Tensor t = s.tensor({n, h}, DType::f32); ... }  // context.h: given back at the end of the scope
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace offramp {

enum class Backing { none, host };
inline constexpr std::size_t kAlignment = 64;  // of every tensor: one cache line, one AVX-512 register
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
inline constexpr std::size_t kUnlimited = std::size_t{1} << 46;  // capacity of a planning arena

class Arena {
 public:
  Arena() = default;                           // capacity 0
  // Owns its memory, zeroed; throws Exit::memory where the host has none left. Planned ones of different regions do not overlap.
  Arena(Backing backing, std::size_t bytes, int region = 0);
  Arena(std::byte* memory, std::size_t bytes, std::string name);  // a part of another arena (a slab); nothing is freed
  Arena(Arena&& other) noexcept : Arena() { *this = std::move(other); }
  Arena& operator=(Arena&& other) noexcept;  // leaves the other with capacity 0

  // Throws Error(Exit::internal) with the arena's name and sizes when it is full: the plan said that cannot be.
  Tensor tensor(Shape shape, DType dtype);
  std::byte* bytes(std::size_t count);

  std::size_t mark() const { return used_; }
  void release(std::size_t mark) noexcept;  // gives back everything taken since; nothing where less than that is in use
  void reset() noexcept { release(0); }

  std::byte* memory() const { return memory_; }
  std::size_t capacity() const { return capacity_; }
  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }        // the most that was ever in use
  std::size_t largest() const { return largest_; }  // the largest single request so far

 private:
  struct Unmap {
    std::size_t bytes;  // (an initializer here would make the deleter incomplete where Arena needs it)
    void operator()(std::byte* memory) const noexcept;
  };
  using Mapping = std::unique_ptr<std::byte, Unmap>;
  static Mapping map_host_memory(std::size_t bytes);

  Mapping owned_;
  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0, peak_ = 0, largest_ = 0;
  std::string name_ = "arena";
};

// Bytes of memory that this process may use: what the host has, or what its control groups allow if that is less.
std::size_t host_memory();

// How many times this process asked the system for tensor memory. Constant after a job's first step.
std::size_t system_allocations();

// `count` slabs of one size. Slabs are numbered, and the lowest free one is handed out that `avoid` does not name (the lowest
// free one, if it names all), so that the same program touches the same addresses every step.
class Pool {
 public:
  Pool(Arena& arena, std::string name, std::size_t slab_bytes, int count);
  using Avoid = std::function<bool(int slab)>;
  int take(const Avoid& avoid = {});  // throws when empty: the schedule's lifetimes() said that cannot be
  void give(int slab);                // throws when it is not taken
  std::byte* memory(int slab) const;
  std::size_t slab_bytes() const { return slab_bytes_; }
  int count() const { return static_cast<int>(taken_.size()); }
  int peak() const { return peak_; }  // how many were ever used

 private:
  std::string name_;
  std::byte* memory_ = nullptr;
  std::size_t slab_bytes_ = 0;
  std::vector<bool> taken_;
  int peak_ = 0;
};

}  // namespace offramp
