// Whole logical tensors from the ranks that own them, for exports. Every rank knows from the model's description who owns what,
// so nothing but data is sent.
#pragma once
#include <span>
#include <vector>

#include "parallel/machine.h"

namespace offramp {

class Gatherer {
 public:
  explicit Gatherer(Machine& machine);
  // Collective over the world, every rank with the same name. On rank 0 the tensor's elements, valid until the next call; elsewhere
  // nothing. Throws Error(Exit::internal) for a name that the model does not have.
  std::span<const float> gather(const std::string& name);

 private:
  struct Owner {
    int stage = 0;
    Parameter* parameter = nullptr;
    const Piece* piece = nullptr;
  };
  void pack(const Owner& owner);

  Machine& machine_;
  std::map<std::string, Owner> owners_;
  std::vector<float> buffer_;
};

}  // namespace offramp
