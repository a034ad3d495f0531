// Logical tensors from the ranks that own them, a part at a time, for exports. Every rank knows from the model's description who
// owns what, so nothing but data is sent.
//
//   Gatherer gatherer(machine);
//   for (first = 0; first < elements; first += Gatherer::kMost)
//     values = gatherer.gather(name, first, std::min(Gatherer::kMost, elements - first));   // on every rank
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "parallel/machine.h"

namespace offramp {

class Gatherer {
 public:
  static constexpr std::int64_t kMost = std::int64_t{1} << 22;  // elements a call: 16 MiB of memory, whatever the tensor's size

  explicit Gatherer(Machine& machine);
  // Collective over the world, every rank with the same arguments. On rank 0 elements first .. first + count of the tensor, valid
  // until the next call; elsewhere nothing. Throws Error(Exit::internal) for a name that the model does not have.
  std::span<const float> gather(const std::string& name, std::int64_t first, std::int64_t count);

 private:
  struct Owner {
    int stage = 0;
    Parameter* parameter = nullptr;
    const Piece* piece = nullptr;
  };
  void pack(const Owner& owner, std::int64_t first, std::int64_t count);

  Machine& machine_;
  std::map<std::string, Owner> owners_;
  std::vector<float> buffer_;
};

}  // namespace offramp
