#include <algorithm>
#include <array>

#include "checkpoint/json_file.h"
#include "checkpoint/safetensors.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;
using Stored = SafetensorsReader::Stored;

constexpr std::uint64_t kMaxHeader = 100'000'000;

// Bits of an element; 0 for a type that the format does not have.
std::uint64_t bits_of(std::string_view dtype) {
  constexpr std::pair<std::string_view, std::uint64_t> kTypes[] = {
      {"BOOL", 8},  {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},
      {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32},    {"I64", 64},    {"U64", 64},    {"F64", 64}, {"C64", 64}};
  for (const auto& [name, bits] : kTypes) {
    if (name == dtype) return bits;
  }
  return 0;
}

std::optional<FloatType> readable(std::string_view dtype) {
  if (dtype == "F32") return FloatType::f32;
  if (dtype == "F16") return FloatType::f16;
  if (dtype == "BF16") return FloatType::bf16;
  return std::nullopt;
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(Exit::checkpoint, "{}: is no sound safetensors file: {}; make or download it again", path, why);
}

Json parse_header(const std::string& path, const std::string& text) {
  try {
    return parse_object(text);
  } catch (const JsonProblem& problem) {
    refuse(path, fmt::format("its header {}", problem.what()));
  }
}

Stored parse_tensor(const std::string& path, const std::string& name, const Json& json) {
  const auto sizes = [](const Json& list) {
    return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& n) {
             return n.is_number_unsigned() && n.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX);
           });
  };
  const bool sound = json.is_object() && json.size() == 3 && json.contains("dtype") && json["dtype"].is_string() &&
                     json.contains("shape") && sizes(json["shape"]) && json.contains("data_offsets") && sizes(json["data_offsets"]) &&
                     json["data_offsets"].size() == 2;
  if (!sound) refuse(path, fmt::format("tensor '{}' lacks a dtype, a shape or two data_offsets", name));

  Stored tensor{name, json["dtype"], json["shape"], json["data_offsets"][0], json["data_offsets"][1]};
  std::uint64_t bits = bits_of(tensor.dtype);
  if (bits == 0) refuse(path, fmt::format("tensor '{}' has the unknown type '{}'", name, tensor.dtype));
  for (const auto size : tensor.shape) {
    if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(size), &bits))
      refuse(path, fmt::format("the shape of '{}' overflows", name));
  }
  if (tensor.begin > tensor.end || tensor.end - tensor.begin != bits / 8) {
    refuse(path, fmt::format("tensor '{}' has {} bytes by its shape, but its data_offsets are [{}, {}]", name, bits / 8, tensor.begin,
                             tensor.end));
  }
  return tensor;
}

void check_metadata(const std::string& path, const Json& metadata) {
  const bool sound =
      metadata.is_object() && std::all_of(metadata.begin(), metadata.end(), [](const Json& value) { return value.is_string(); });
  if (!sound) refuse(path, "its __metadata__ holds something else than strings");
}

// Sorted by begin: each tensor starts where the one before it ends, the last one ends with the file.
void check_layout(const std::string& path, const std::vector<Stored>& tensors, std::uint64_t data_bytes) {
  std::uint64_t at = 0;
  for (const auto& tensor : tensors) {
    if (tensor.begin != at) {
      refuse(path, fmt::format("tensor '{}' starts at byte {} of the data, the one before it ends at {}", tensor.name, tensor.begin, at));
    }
    at = tensor.end;
  }
  if (at != data_bytes) refuse(path, fmt::format("its tensors end at byte {} of the data, the file at {}", at, data_bytes));
}

}  // namespace

std::uint64_t SafetensorsReader::Stored::elements() const {
  std::uint64_t n = 1;
  for (const auto size : shape) n *= static_cast<std::uint64_t>(size);
  return n;
}

SafetensorsReader::SafetensorsReader(const std::string& path) : file_(path) {
  const std::uint64_t size = file_.size();
  std::uint64_t length = 0;
  if (size < sizeof(length)) refuse(path, fmt::format("it has only {} bytes", size));
  file_.read(0, &length, sizeof(length));
  if (length > kMaxHeader) refuse(path, fmt::format("its header would have {} bytes, {} are allowed", length, kMaxHeader));
  if (length > size - sizeof(length)) refuse(path, fmt::format("its header would have {} bytes, the file has {}", length, size));

  std::string text(length, '\0');
  file_.read(sizeof(length), text.data(), length);
  data_at_ = sizeof(length) + length;

  const Json header = parse_header(path, text);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(path, value);
    } else {
      tensors_.push_back(parse_tensor(path, name, value));
    }
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const Stored& a, const Stored& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  check_layout(path, tensors_, size - data_at_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

const Stored* SafetensorsReader::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

void SafetensorsReader::read(const Stored& tensor, std::uint64_t first, std::span<float> values) const {
  const auto type = readable(tensor.dtype);
  if (!type) fail(Exit::checkpoint, "{}: '{}' has the type {}, not F32, F16 or BF16; convert the file", path(), tensor.name, tensor.dtype);
  OFFRAMP_CHECK(first + values.size() <= tensor.elements(), "[safetensors] {} has {} elements, not {} + {}", tensor.name, tensor.elements(),
                first, values.size());
  std::array<std::byte, 65536> stored;
  std::uint64_t at = data_at_ + tensor.begin + first * size_of(*type);
  while (!values.empty()) {
    const auto part = values.first(std::min(values.size(), stored.size() / size_of(*type)));
    const std::size_t bytes = part.size() * size_of(*type);
    file_.read(at, stored.data(), bytes);
    widen(*type, stored.data(), part);
    at += bytes;
    values = values.subspan(part.size());
  }
}

std::vector<float> SafetensorsReader::read(std::string_view name) const {
  const Stored* tensor = find(name);
  if (!tensor) fail(Exit::checkpoint, "{}: holds no tensor called '{}'", path(), name);
  std::vector<float> values(readable(tensor->dtype) ? tensor->elements() : 0);
  read(*tensor, 0, values);
  return values;
}

}  // namespace offramp
