// Boxes hold what runs hold, whatever part of whatever parameter they are of.
#include "checkpoint/box.h"

#include <gtest/gtest.h>

#include <random>

namespace offramp {
namespace {

// By element of the logical tensor where it lies in the parameter, or -1.
std::vector<std::int64_t> by_runs(const Piece& piece, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> at(static_cast<std::size_t>(piece.global.elements()), -1);
  runs(piece, begin, end, [&](const Run& run) {
    for (std::int64_t i = 0; i < run.count; ++i) at[static_cast<std::size_t>(run.global + i)] = run.local + i;
  });
  return at;
}

std::vector<std::int64_t> by_boxes(const Piece& piece, const std::vector<HeldBox>& boxes) {
  const std::int64_t columns = matrix_of(piece.global).columns;
  std::vector<std::int64_t> at(static_cast<std::size_t>(piece.global.elements()), -1);
  for (const HeldBox& held : boxes)
    for (std::int64_t r = 0; r < held.box.rows; ++r)
      for (std::int64_t c = 0; c < held.box.columns; ++c) {
        std::int64_t& place = at[static_cast<std::size_t>((held.box.row + r) * columns + held.box.column + c)];
        EXPECT_EQ(place, -1) << "twice";
        place = held.local + r * held.step + c;
      }
  return at;
}

// Every third block of columns, as a tensor rank has of a row-split matrix; every other block of rows, interleaved with another
// tensor's, as of a gated one.
Piece columns_dealt_out() {
  Piece p{.name = "columns", .global = {5, 24}, .global_first = 8, .local_first = 3};
  p.axes[0] = {5, 24, 8};
  p.axes[1] = {2, 12, 4};
  p.axes[2] = {4, 1, 1};
  return p;
}
Piece rows_dealt_out() {
  Piece p{.name = "rows", .global = {12, 7}, .global_first = 14, .local_first = 14};
  p.axes[0] = {3, 28, 28};
  p.axes[1] = {14, 1, 1};
  return p;
}

TEST(Boxes, HoldWhatRunsHold) {
  std::mt19937 random(1);
  for (const Piece& piece : {whole("matrix", {6, 5}), whole("vector", {11}), rows_of("part", {9, 4}, 2, 5), columns_dealt_out(), rows_dealt_out()})
    for (int trial = 0; trial < 200; ++trial) {
      const std::int64_t end = trial == 0 ? 1000 : static_cast<std::int64_t>(random() % 90), begin = trial == 0 ? 0 : static_cast<std::int64_t>(random() % 60);
      EXPECT_EQ(by_boxes(piece, boxes_of(piece, begin, end)), by_runs(piece, begin, end)) << piece.name << " " << begin << " " << end;
    }
}

TEST(Boxes, AreAsFewAsTheyCan) {
  EXPECT_EQ(boxes_of(whole("matrix", {6, 5}), 0, 30).size(), 1u);
  EXPECT_EQ(boxes_of(whole("matrix", {6, 5}), 3, 27).size(), 3u);  // the end of a row, rows, the beginning of one
  EXPECT_EQ(boxes_of(columns_dealt_out(), 0, 1000).size(), 2u);
  EXPECT_EQ(boxes_of(rows_dealt_out(), 0, 1000).size(), 3u);
}

TEST(Boxes, Meet) {
  EXPECT_EQ((Box{1, 4, 2, 3} & Box{3, 9, 0, 4}), (Box{3, 2, 2, 2}));
  EXPECT_EQ((Box{0, 2, 0, 2} & Box{2, 2, 0, 2}).elements(), 0);
}

}  // namespace
}  // namespace offramp
