#include "checkpoint/gguf_types.h"

#include <fmt/format.h>

#include <cstring>

#include "checkpoint/float_type.h"

namespace offramp {
namespace {

constexpr std::int64_t kBlock = 32;

enum : std::uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBf16 = 30 };
constexpr GgufType kTypes[] = {{kF32, "F32", 1, 4},         {kF16, "F16", 1, 2},         {kBf16, "BF16", 1, 2},
                               {kQ8_0, "Q8_0", kBlock, 34}, {kQ4_0, "Q4_0", kBlock, 18}, {kQ4_1, "Q4_1", kBlock, 20}};

float half_at(const std::byte* in) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, in, sizeof(bits));
  return from_f16(bits);
}

// 16 bytes of two numbers each.
template <class Value>
void halves(const std::byte* in, float* out, Value&& value) {
  for (std::int64_t i = 0; i < kBlock / 2; ++i) {
    out[i] = value(std::to_integer<int>(in[i] & std::byte{15}));
    out[i + kBlock / 2] = value(std::to_integer<int>(in[i] >> 4));
  }
}

void dequantise_block(std::uint32_t id, const std::byte* in, float* out) {
  const float d = half_at(in);
  if (id == kQ8_0) {
    for (std::int64_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * d;
  } else if (id == kQ4_0) {
    halves(in + 2, out, [d](int q) { return static_cast<float>(q - 8) * d; });
  } else {
    halves(in + 4, out, [d, m = half_at(in + 2)](int q) { return static_cast<float>(q) * d + m; });
  }
}

}  // namespace

const GgufType* gguf_type(std::uint32_t id) {
  for (const GgufType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string gguf_type_name(std::uint32_t id) {
  if (const GgufType* type = gguf_type(id)) return type->name;
  constexpr std::pair<std::uint32_t, const char*> kOthers[] = {{6, "Q5_0"},  {7, "Q5_1"},    {9, "Q8_1"},  {10, "Q2_K"},
                                                               {11, "Q3_K"}, {12, "Q4_K"},   {13, "Q5_K"}, {14, "Q6_K"},
                                                               {15, "Q8_K"}, {20, "IQ4_NL"}, {28, "F64"}};
  for (const auto& [other, name] : kOthers) {
    if (other == id) return name;
  }
  return fmt::format("number {}", id);
}

void dequantise(const GgufType& type, const std::byte* in, std::int64_t blocks, float* out) {
  if (type.block == 1) {
    const FloatType plain = type.id == kF32 ? FloatType::f32 : type.id == kF16 ? FloatType::f16 : FloatType::bf16;
    return widen(plain, in, {out, static_cast<std::size_t>(blocks)});
  }
  for (std::int64_t i = 0; i < blocks; ++i) dequantise_block(type.id, in + i * static_cast<std::int64_t>(type.bytes), out + i * kBlock);
}

}  // namespace offramp
