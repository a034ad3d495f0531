// Boxes: rectangles of logical tensors. A checkpoint is made of nothing else, so it does not depend on who held what: a rank writes the
// boxes that it holds, and reads the parts that it wants of the boxes that are there.
//
// A logical tensor is seen as a matrix [rows, columns]: its first axis by all the others, a vector as one row.
//
//   for (const HeldBox& held : boxes_of(piece, begin, end))     // of elements begin .. end of the parameter
//     copy_box(out, held.box.columns, parameter + held.local, held.step, held.box);
#pragma once
#include <string>
#include <vector>

#include "models/parameter.h"

namespace offramp {

struct Box {
  std::int64_t row = 0, rows = 0, column = 0, columns = 0;
  std::int64_t elements() const { return rows * columns; }
  bool operator==(const Box&) const = default;
};
// Empty (rows or columns 0) where they do not meet.
Box operator&(const Box& a, const Box& b);

struct Matrix {
  std::int64_t rows = 0, columns = 0;
};
Matrix matrix_of(const Shape& logical);

// A box that a parameter holds: element (r, c) of it is the parameter's `local + r * step + c`.
struct HeldBox {
  Box box;
  std::int64_t local = 0, step = 0;
};
// What elements begin .. end of a parameter hold of a piece's tensor, in as few boxes as rows that continue each other allow. In
// order of their first elements.
std::vector<HeldBox> boxes_of(const Piece& piece, std::int64_t begin, std::int64_t end);

// Elements first .. first + count of a matrix with so many columns, in order: whole rows, and what is left of one before and after.
std::vector<Box> boxes_between(std::int64_t first, std::int64_t count, std::int64_t columns);

// Copies a box between two places, whose rows are so many elements apart.
void copy_box(float* to, std::int64_t to_step, const float* from, std::int64_t from_step, const Box& box);

}  // namespace offramp
