// Module: one unit of a network, with its own backward: the embedding, or half a transformer layer (x + attention(norm x), or
// x + mlp(norm x)). A stage runs a list of them, an exit's body is a list of them, and exits tap between them. There is no tape:
// a unit writes its backward out by hand with Linear, Norm and the operations of tensor/ops.h.
//
// The caller allocates y, since it knows how long y lives. dx is assigned (undefined: not wanted; it may be dy itself where the
// shapes agree); gradients of parameters are accumulated. Temporaries are scratch; what the backward needs goes to the slot.
#pragma once
#include <memory>

#include "models/parameter.h"
#include "models/slot.h"

namespace offramp {

class Module {
 public:
  virtual ~Module() = default;
  virtual void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) = 0;    // y [n, h]
  virtual void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) = 0;  // pops what forward pushed
  virtual void visit(const Visitor& visitor) = 0;                             // always in the same order
};
using ModulePtr = std::unique_ptr<Module>;

}  // namespace offramp
