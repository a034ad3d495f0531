#include "checkpoint/box.h"

#include <algorithm>
#include <map>

#include "tensor/check.h"

namespace offramp {
namespace {

// Puts rows of the same columns on top of each other while they follow each other in the tensor and, evenly, in the parameter.
class Stacker {
 public:
  explicit Stacker(std::int64_t columns) : columns_(columns) {}

  // A run may begin and end within a row.
  void add(Run run) {
    while (run.count > 0) {
      const std::int64_t row = run.global / columns_, column = run.global % columns_;
      const bool whole_rows = column == 0 && run.count >= columns_;
      const std::int64_t rows = whole_rows ? run.count / columns_ : 1;
      const std::int64_t width = whole_rows ? columns_ : std::min(run.count, columns_ - column);
      put({{row, rows, column, width}, run.local, width});
      run.global += rows * width, run.local += rows * width, run.count -= rows * width;
    }
  }
  std::vector<HeldBox> take() { return std::move(boxes_); }

 private:
  void put(const HeldBox& held) {
    const auto [open, fresh] = open_.try_emplace(held.box.column, boxes_.size());
    if (!fresh && continues(boxes_[open->second], held)) {
      HeldBox& below = boxes_[open->second];
      if (below.box.rows == 1) below.step = held.local - below.local;
      below.box.rows += held.box.rows;
      return;
    }
    open->second = boxes_.size();
    boxes_.push_back(held);
  }
  static bool continues(const HeldBox& open, const HeldBox& next) {
    if (next.box.columns != open.box.columns || next.box.row != open.box.row + open.box.rows) return false;
    const std::int64_t step = open.box.rows == 1 ? next.local - open.local : open.step;
    return next.local == open.local + open.box.rows * step && (next.box.rows == 1 || next.step == step);
  }

  std::int64_t columns_;
  std::map<std::int64_t, std::size_t> open_;  // by first column
  std::vector<HeldBox> boxes_;
};

}  // namespace

Box operator&(const Box& a, const Box& b) {
  Box both{std::max(a.row, b.row), 0, std::max(a.column, b.column), 0};
  both.rows = std::max<std::int64_t>(0, std::min(a.row + a.rows, b.row + b.rows) - both.row);
  both.columns = std::max<std::int64_t>(0, std::min(a.column + a.columns, b.column + b.columns) - both.column);
  return both;
}

Matrix matrix_of(const Shape& logical) {
  OFFRAMP_CHECK(logical.rank >= 1, "[matrix_of] a tensor without axes");
  if (logical.rank == 1) return {1, logical[0]};
  return {logical[0], logical[0] == 0 ? 0 : logical.elements() / logical[0]};
}

std::vector<HeldBox> boxes_of(const Piece& piece, std::int64_t begin, std::int64_t end) {
  Stacker stacker(matrix_of(piece.global).columns);
  runs(piece, begin, end, [&](const Run& run) { stacker.add(run); });
  return stacker.take();
}

std::vector<Box> boxes_between(std::int64_t first, std::int64_t count, std::int64_t columns) {
  std::vector<Box> boxes;
  while (count > 0) {
    const std::int64_t row = first / columns, column = first % columns;
    const bool whole = column == 0 && count >= columns;
    boxes.push_back({row, whole ? count / columns : 1, column, whole ? columns : std::min(count, columns - column)});
    first += boxes.back().elements(), count -= boxes.back().elements();
  }
  return boxes;
}

void copy_box(float* to, std::int64_t to_step, const float* from, std::int64_t from_step, const Box& box) {
  for (std::int64_t r = 0; r < box.rows; ++r) std::copy_n(from + r * from_step, box.columns, to + r * to_step);
}

}  // namespace offramp
