#include "checkpoint/tensor_source.h"

namespace offramp {

void TensorSource::read_box(const std::string& name, const Shape& shape, const Box& box, float* out) {
  const std::int64_t columns = matrix_of(shape).columns;
  if (box.columns == columns) return read(name, box.row * columns, box.elements(), out);
  for (std::int64_t r = 0; r < box.rows; ++r) read(name, (box.row + r) * columns + box.column, box.columns, out + r * box.columns);
}

}  // namespace offramp
