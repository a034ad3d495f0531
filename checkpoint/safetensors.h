// safetensors files, in and out:  u64 N | N bytes of JSON | data,  little-endian. The JSON maps each tensor's name to
// {"dtype", "shape", "data_offsets": [begin, end]} relative to the data; tensors stand without holes; the JSON is padded with spaces
// so that the data starts at a multiple of 8. Equal tensors give equal bytes: nothing else is in the file.
//
//   SafetensorsWriter writer("hf/model.safetensors", {{"model.norm.weight", {256}}, {"lm_head.weight", {8192, 256}}});
//   writer.write(norm);      // in their order; a large tensor in as many parts as you like
//   writer.write(head);
//   writer.finish();         // without it, no file is left
//
// The reader trusts nothing it reads. Every failure is an Error(Exit::checkpoint) that names the file.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/float_type.h"
#include "checkpoint/input_file.h"
#include "tensor/tensor.h"

namespace offramp {

struct TensorEntry {
  std::string name;
  Shape shape;
  bool operator==(const TensorEntry&) const = default;
};

// Memory does not grow with the file. Values are rounded to the file's type; a finite one that fp16 cannot hold is an error.
class SafetensorsWriter {
 public:
  enum class Metadata : std::uint8_t { none, pt };  // pt: "__metadata__" is {"format":"pt"}, which transformers asks for
  SafetensorsWriter(const std::string& path, std::vector<TensorEntry> entries, Metadata metadata = Metadata::pt,
                    FloatType type = FloatType::f32);

  const std::vector<TensorEntry>& entries() const { return entries_; }
  void write(std::span<const float> values);
  void finish();

 private:
  std::vector<TensorEntry> entries_;
  FloatType type_;
  std::size_t next_ = 0;      // the entry that write() goes on with
  std::int64_t written_ = 0;  // elements of it
  OutputFile file_;
};

class SafetensorsReader {
 public:
  struct Stored {
    std::string name, dtype;  // "F32"
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0, end = 0;  // in the data
    std::uint64_t elements() const;
  };
  // Refuses a header over 100 MB or beyond the file, shapes that overflow or disagree with their bytes, duplicates, overlaps, holes.
  explicit SafetensorsReader(const std::string& path);

  const std::vector<Stored>& tensors() const { return tensors_; }  // in the order of their data
  const Stored* find(std::string_view name) const;                 // null: there is none
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  const std::string& path() const { return file_.path(); }

  // Elements first .. first + values.size() of a tensor of type F32, F16 or BF16. Memory does not grow with their number.
  void read(const Stored& tensor, std::uint64_t first, std::span<float> values) const;
  std::vector<float> read(std::string_view name) const;  // all of them

 private:
  InputFile file_;
  std::uint64_t data_at_ = 0;
  std::vector<Stored> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // into tensors_
};

}  // namespace offramp
