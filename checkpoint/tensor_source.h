// TensorSource: where a model's logical tensors come from: a checkpoint, a Hugging Face directory, a GGUF file. Names and shapes are
// those of models/names.h, whatever the file calls and stores them; values are f32, whatever is stored.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "checkpoint/safetensors.h"

namespace offramp {

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<TensorEntry> entries() const = 0;
  // Elements first .. first + count of a tensor, row-major. Throws Error(Exit::checkpoint) naming the file.
  virtual void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) = 0;
  // A box of a tensor of this shape, its rows one after the other. Reads row by row, if the source knows no better.
  virtual void read_box(const std::string& name, const Shape& shape, const Box& box, float* out);
};

}  // namespace offramp
