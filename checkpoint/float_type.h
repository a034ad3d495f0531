// FloatType: how a file stores its numbers, and the way from and to f32. bf16 is that of tensor/bf16.h; f16 is IEEE's half.
//
//   widen(FloatType::bf16, bytes, values);     // exact
//   narrow(FloatType::bf16, values, bytes);    // to nearest, ties to even
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace offramp {

enum class FloatType : std::uint8_t { f32, f16, bf16 };
constexpr std::size_t size_of(FloatType type) { return type == FloatType::f32 ? 4 : 2; }
// By the words of the command line, fp32, fp16 and bf16, and by PyTorch's.
const char* name_of(FloatType type);
const char* torch_name_of(FloatType type);
std::optional<FloatType> float_type(std::string_view name);

constexpr float kLargestF16 = 65504;
float from_f16(std::uint16_t bits);
std::uint16_t to_f16(float value);  // what rounds beyond the largest becomes infinity

// `bytes` holds as many elements as there are values, at any address.
void widen(FloatType type, const std::byte* bytes, std::span<float> values);
void narrow(FloatType type, std::span<const float> values, std::byte* bytes);

}  // namespace offramp
