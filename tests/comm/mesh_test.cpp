#include "comm/mesh.h"

#include <gtest/gtest.h>

namespace offramp {
namespace {

TEST(Mesh, RankIsDataThenPipelineThenTensor) {
  const Degrees degrees{.tensor = 2, .pipeline = 3, .data = 4};
  EXPECT_EQ(degrees.world(), 24);
  EXPECT_EQ(rank_of({.tensor = 1, .pipeline = 0, .data = 0}, degrees), 1);
  EXPECT_EQ(rank_of({.tensor = 0, .pipeline = 1, .data = 0}, degrees), 2);
  EXPECT_EQ(rank_of({.tensor = 0, .pipeline = 0, .data = 1}, degrees), 6);
  for (int rank = 0; rank < degrees.world(); ++rank) EXPECT_EQ(rank_of(coordinates(rank, degrees), degrees), rank);
  EXPECT_THROW(coordinates(24, degrees), Error);
  EXPECT_THROW(coordinates(-1, degrees), Error);
}

TEST(Mesh, OneRankIsTheDefault) {
  const Mesh mesh;
  EXPECT_EQ(mesh.world_rank(), 0);
  EXPECT_EQ(mesh.tensor.size() * mesh.pipeline.size() * mesh.data.size(), 1);
}

TEST(Mesh, PlannedGroupsHaveTheRanksPlace) {
  const Mesh mesh = Mesh::planned(17, {.tensor = 2, .pipeline = 3, .data = 4});  // 17 = (2 * 3 + 2) * 2 + 1
  EXPECT_EQ(mesh.world_rank(), 17);
  EXPECT_EQ(mesh.world.rank(), 17);
  EXPECT_EQ(mesh.world.size(), 24);
  EXPECT_EQ(mesh.tensor.rank(), 1);
  EXPECT_EQ(mesh.tensor.size(), 2);
  EXPECT_EQ(mesh.pipeline.rank(), 2);
  EXPECT_EQ(mesh.pipeline.size(), 3);
  EXPECT_EQ(mesh.data.rank(), 2);
  EXPECT_EQ(mesh.data.size(), 4);
}

TEST(Mesh, WorldMustHaveTheRightSize) {
  EXPECT_THROW(Mesh(Group(), {.tensor = 2}), Error);
  EXPECT_THROW(Mesh::planned(0, {.tensor = 0}), Error);
}

}  // namespace
}  // namespace offramp
