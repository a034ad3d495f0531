// How GGUF files store numbers: plain, or quantised in blocks of 32 with a scale each (d, m are halves, q unsigned):
//
//   Q8_0  d | 32 x int8                     x_i = d q_i
//   Q4_0  d | 16 bytes, two numbers each    x_i = d (q_i - 8)       the low halves are numbers 0 to 15, the high ones 16 to 31
//   Q4_1  d m | 16 bytes                    x_i = d q_i + m
//
// Every product is exact in f32, so that the values are ggml's bit by bit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace offramp {

struct GgufType {
  std::uint32_t id = 0;  // in the file
  const char* name = "";
  std::int64_t block = 1;   // elements
  std::uint64_t bytes = 0;  // of a block
};
// F32, F16, BF16, Q8_0, Q4_0, Q4_1; null for any other.
const GgufType* gguf_type(std::uint32_t id);
std::string gguf_type_name(std::uint32_t id);  // of others too, for messages

// out [blocks * type.block]
void dequantise(const GgufType& type, const std::byte* in, std::int64_t blocks, float* out);

}  // namespace offramp
