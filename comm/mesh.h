// Mesh: which rank does what, by mixed-radix arithmetic: rank = (data * P + pipeline) * T + tensor. A value, passed explicitly.
#pragma once
#include "comm/group.h"

namespace offramp {

struct Degrees {
  int tensor = 1, pipeline = 1, data = 1;
  int world() const { return tensor * pipeline * data; }
};
struct Coordinates {
  int tensor = 0, pipeline = 0, data = 0;
};
Coordinates coordinates(int rank, const Degrees& degrees);
int rank_of(const Coordinates& at, const Degrees& degrees);

struct Mesh {
  Degrees degrees;
  Coordinates at;
  Group world, tensor, pipeline, data;

  Mesh() = default;                                       // one rank
  Mesh(Group world, const Degrees& degrees);              // collective; world.size() must be degrees.world()
  static Mesh planned(int rank, const Degrees& degrees);  // no communication: for plan, --dry-run and tests
  int world_rank() const { return rank_of(at, degrees); }
};

}  // namespace offramp
