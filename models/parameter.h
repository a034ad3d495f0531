// Parameter: one physical matrix or vector on this rank, and which parts of which logical tensors it holds.
//
// A *logical tensor* is what the outside knows: its Hugging Face name and shape. A *Piece* is an affine map of a box of at most
// four axes: element (i0..i3) sits at global_first + sum i*global_stride of the logical tensor (row-major) and at
// local_first + sum i*local_stride of this parameter. Fused q/k/v and gate/up, tensor parallelism, padded vocabularies: all are
// pieces, and nobody else knows. Initialisation, export and the gradient norm are one walk over pieces, runs().
//
//   q_proj inside the group-major qkv matrix, G groups of (k, v, q query heads) of d rows of h:
//     axes {G, q*d*h, (2+q)*d*h} {q*d*h, 1, 1},  local_first 2*d*h
//
// Parameters with equal logical names are one tensor, wherever they are: ties and copies follow from names.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tensor/context.h"
#include "tensor/random.h"

namespace offramp {

struct Axis {
  std::int64_t count = 1, global_stride = 0, local_stride = 0;
};
struct Piece {
  std::string name;  // "model.layers.3.self_attn.q_proj.weight"
  Shape global;      // as files show it, e.g. [1024, 512]
  std::int64_t global_first = 0, local_first = 0;
  std::array<Axis, 4> axes{};
  std::int64_t elements() const;
};
// The piece that is a whole logical tensor, at the start of its parameter.
Piece whole(std::string name, Shape global);
// Rows first .. first + count of a logical matrix (or elements of a vector), at the start of their parameter.
Piece rows_of(std::string name, Shape global, std::int64_t first, std::int64_t count);

struct Init {
  enum class Kind : std::uint8_t { zeros, ones, normal } kind = Kind::normal;
  double deviation = 0.02;
};

// Who adds to a parameter's gradient. Writers of different kinds run in an order that a schedule may change, so each kind has an
// accumulator of its own; they are summed once a step in this order ("lookups last").
enum class Writer : std::uint8_t { head, unit, lookup };

struct Parameter {
  Shape shape;  // physical
  Init init;
  std::vector<Piece> pieces;  // cover it completely
  Writer writer = Writer::unit;
  double lr_scale = 1;
  bool replicated = false;  // every rank of the tensor group holds all of it
  bool frozen = false;      // never changes: it has a value alone
  int clip_group = 0;       // parameters that are clipped together, by the norm of their gradients
  Tensor value, grad;       // bound by Flat; undefined until then. value: the working type; grad: f32

  const std::string& name() const { return pieces.front().name; }
  bool decayed() const { return shape.rank >= 2; }  // weight decay is for matrices only
};
using Visitor = std::function<void(Parameter&)>;

// A maximal stretch of elements that is contiguous in the parameter and in the logical tensor.
struct Run {
  std::int64_t local = 0, global = 0, count = 0;
};
// Visits the runs of a piece in order of their logical position. (With a range [begin, end) of the parameter, only what lies in
// it: a shard.)
void runs(const Piece& piece, std::int64_t begin, std::int64_t end, const std::function<void(const Run&)>& visit);
void runs(const Piece& piece, const std::function<void(const Run&)>& visit);

// Fills `values` f32, laid out like the parameter, from (seed, logical name, element of the logical tensor): the same at every layout.
// With `origin`, from the name that it gives for a tensor's: a copy begins with the same numbers.
using NameOf = std::function<std::string(const std::string&)>;
void initialize(const Parameter& parameter, Tensor values, std::uint64_t seed, const NameOf& origin = {});

}  // namespace offramp
