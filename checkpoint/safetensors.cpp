#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "tensor/check.h"

namespace offramp {
namespace {

static_assert(std::endian::native == std::endian::little, "the data is little-endian and written as it stands in memory");

const char* format_name_of(FloatType type) { return type == FloatType::f32 ? "F32" : type == FloatType::f16 ? "F16" : "BF16"; }

// The file's first bytes: the header's length and the header.
std::string header_of(const std::vector<TensorEntry>& entries, SafetensorsWriter::Metadata metadata, FloatType type) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (metadata == SafetensorsWriter::Metadata::pt) header["__metadata__"] = {{"format", "pt"}};
  std::uint64_t begin = 0;
  for (const auto& entry : entries) {
    OFFRAMP_CHECK(!entry.name.empty() && !header.contains(entry.name), "[safetensors] two entries are called '{}'", entry.name);
    const std::uint64_t end = begin + static_cast<std::uint64_t>(entry.shape.elements()) * size_of(type);
    auto& stored = header[entry.name];
    stored["dtype"] = format_name_of(type);
    stored["shape"] = std::vector(entry.shape.size.begin(), entry.shape.size.begin() + entry.shape.rank);
    stored["data_offsets"] = {begin, end};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorEntry> entries, Metadata metadata, FloatType type)
    : entries_(std::move(entries)), type_(type), file_(path) {
  const std::string header = header_of(entries_, metadata, type);
  file_.write(header.data(), header.size());
}

void SafetensorsWriter::write(std::span<const float> values) {
  OFFRAMP_CHECK(next_ < entries_.size(), "[safetensors] {} has no entry after its {}", file_.path(), entries_.size());
  const auto& entry = entries_[next_];
  written_ += static_cast<std::int64_t>(values.size());
  OFFRAMP_CHECK(written_ <= entry.shape.elements(), "[safetensors] {} {} gets {} values", entry.name, to_text(entry.shape), written_);
  write_values(file_, type_, values, entry.name);
  if (written_ < entry.shape.elements()) return;
  ++next_;
  written_ = 0;
}

void SafetensorsWriter::finish() {
  OFFRAMP_CHECK(next_ == entries_.size(), "[safetensors] {}: {} of {} entries were written", file_.path(), next_, entries_.size());
  file_.finish();
}

}  // namespace offramp
