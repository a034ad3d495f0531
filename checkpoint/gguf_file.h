// GgufFile: a GGUF file, version 2 or 3, little-endian:
//
//   "GGUF" | u32 version | u64 tensors | u64 keys
//   each key:     text | u32 type | value        text: u64 length | bytes;  an array: u32 type | u64 length | values
//   each tensor:  text | u32 dimensions | u64 sizes[], fastest first | u32 type | u64 offset in the data
//   padding to a multiple of general.alignment (32) | data
//
//   const GgufFile file("SmolLM2-135M-Instruct.Q4_1.gguf");
//   file.metadata().at("llama.block_count");
//   file.read(*file.find("output_norm.weight"), 0, values);
//
// The reader trusts nothing: counts, lengths, sizes and offsets are compared with the file before memory is taken; arrays of arrays,
// tensors that overlap or reach beyond the file, and types that are not read are refused. The data is read where it is asked for.
// Every failure is an Error(Exit::checkpoint) that names the file.
#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "checkpoint/gguf_types.h"
#include "checkpoint/input_file.h"
#include "tensor/tensor.h"

namespace offramp {

// Numbers of an array, as they stand in the file.
struct GgufNumbers {
  std::uint32_t type = 0;
  std::vector<std::byte> bytes;
};
using GgufValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::string>, GgufNumbers>;
template <class T>
std::optional<std::vector<T>> numbers_of(const GgufValue& value);  // of std::int32_t or float; nothing where it is no such array

class GgufFile {
 public:
  struct Stored {
    std::string name;
    Shape shape;  // slowest first
    const GgufType* type = nullptr;
    std::uint64_t offset = 0, bytes = 0;  // in the data
  };
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<Stored>& tensors() const { return tensors_; }
  const Stored* find(std::string_view name) const;  // null: there is none

  // Elements first .. first + values.size(), dequantised. Memory does not grow with their number.
  void read(const Stored& tensor, std::int64_t first, std::span<float> values) const;

 private:
  class Cursor;
  GgufValue read_value(Cursor& cursor, std::uint32_t type, const std::string& key) const;
  GgufValue read_array(Cursor& cursor, const std::string& key) const;
  void read_metadata(Cursor& cursor, std::uint64_t keys);
  void read_tensors(Cursor& cursor, std::uint64_t count);
  void check_places() const;

  InputFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::uint64_t alignment_ = 32, data_at_ = 0;
  std::vector<Stored> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // into tensors_
};

}  // namespace offramp
