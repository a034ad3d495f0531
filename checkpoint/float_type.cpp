#include "checkpoint/float_type.h"

#include <bit>
#include <cstring>

#include "tensor/bf16.h"

namespace offramp {

const char* name_of(FloatType type) { return type == FloatType::f32 ? "fp32" : type == FloatType::f16 ? "fp16" : "bf16"; }

const char* torch_name_of(FloatType type) { return type == FloatType::f32 ? "float32" : type == FloatType::f16 ? "float16" : "bfloat16"; }

std::optional<FloatType> float_type(std::string_view name) {
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    if (name == name_of(type)) return type;
  }
  return std::nullopt;
}

// f16: 1 sign bit, 5 of the exponent + 15, 10 of the fraction; f32: 1, 8 + 127, 23.
float from_f16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 127 - 15) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

std::uint16_t to_f16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = word >> 16 & 0x8000, magnitude = word & 0x7FFFFFFF;
  std::uint32_t rounded = 0;
  if (magnitude > 0x7F800000) {
    rounded = 0x7E00;  // NaN
  } else if (magnitude >= std::bit_cast<std::uint32_t>(65520.0f)) {
    rounded = 0x7C00;
  } else if (magnitude < std::bit_cast<std::uint32_t>(0x1p-14f)) {
    // Multiples of 2^-24, which is what the last bit of an f32 around 1/2 stands for: adding 1/2 rounds.
    rounded = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
  } else {
    rounded = (magnitude + 0xFFF + (magnitude >> 13 & 1) - ((127 - 15) << 23)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | rounded);
}

void widen(FloatType type, const std::byte* bytes, std::span<float> values) {
  if (values.empty()) return;
  if (type == FloatType::f32) {
    std::memcpy(values.data(), bytes, values.size_bytes());
    return;
  }
  for (float& value : values) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes, sizeof(bits));
    bytes += sizeof(bits);
    value = type == FloatType::f16 ? from_f16(bits) : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
}

void narrow(FloatType type, std::span<const float> values, std::byte* bytes) {
  if (values.empty()) return;
  if (type == FloatType::f32) {
    std::memcpy(bytes, values.data(), values.size_bytes());
    return;
  }
  for (const float value : values) {
    const std::uint16_t bits = type == FloatType::f16 ? to_f16(value) : bf16(value).bits;
    std::memcpy(bytes, &bits, sizeof(bits));
    bytes += sizeof(bits);
  }
}

}  // namespace offramp
