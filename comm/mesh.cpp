#include "comm/mesh.h"

namespace offramp {
namespace {

void check_degrees(const Degrees& d, int world) {
  OFFRAMP_CHECK(d.tensor >= 1 && d.pipeline >= 1 && d.data >= 1 && d.world() == world,
                "[mesh] {} ranks cannot be {} tensor x {} pipeline x {} data", world, d.tensor, d.pipeline, d.data);
}

}  // namespace

Coordinates coordinates(int rank, const Degrees& degrees) {
  OFFRAMP_CHECK(rank >= 0 && rank < degrees.world(), "[mesh] rank {} of {}", rank, degrees.world());
  return {.tensor = rank % degrees.tensor,
          .pipeline = rank / degrees.tensor % degrees.pipeline,
          .data = rank / degrees.tensor / degrees.pipeline};
}

int rank_of(const Coordinates& at, const Degrees& degrees) {
  return (at.data * degrees.pipeline + at.pipeline) * degrees.tensor + at.tensor;
}

// A group is named by its lowest rank: that of its members whose own coordinate in the group is 0.
Mesh::Mesh(Group all, const Degrees& sizes) : degrees(sizes), world(std::move(all)) {
  check_degrees(degrees, world.size());
  at = coordinates(world.rank(), degrees);
  auto part = [&](int degree, int Coordinates::*axis, Wire wire) {
    if (degree == 1) return Group();
    Coordinates first = at;
    first.*axis = 0;
    return world.split(rank_of(first, degrees), at.*axis, wire);
  };
  tensor = part(degrees.tensor, &Coordinates::tensor, Wire::tensor);
  pipeline = part(degrees.pipeline, &Coordinates::pipeline, Wire::pipeline);
  data = part(degrees.data, &Coordinates::data, Wire::data);
}

Mesh Mesh::planned(int rank, const Degrees& degrees) {
  check_degrees(degrees, degrees.world());
  Mesh mesh;
  mesh.degrees = degrees;
  mesh.at = coordinates(rank, degrees);
  mesh.world = Group::planned(rank, degrees.world(), Wire::control);
  mesh.tensor = Group::planned(mesh.at.tensor, degrees.tensor, Wire::tensor);
  mesh.pipeline = Group::planned(mesh.at.pipeline, degrees.pipeline, Wire::pipeline);
  mesh.data = Group::planned(mesh.at.data, degrees.data, Wire::data);
  return mesh;
}

}  // namespace offramp
