#include <algorithm>

#include "checkpoint/export_entry.h"
#include "checkpoint/gather.h"

namespace offramp {
namespace {

// Some rows of the file at a time: each is a column of every part.
void gather_transposed(Gatherer& gatherer, const ExportEntry& entry, const std::function<void(std::span<const float>)>& take) {
  const auto parts = static_cast<std::int64_t>(entry.parts.size());
  const std::int64_t rows = entry.file.shape[0], width = entry.file.shape[1], each = width / parts;
  const std::int64_t most = std::max<std::int64_t>(1, Gatherer::kMost / width);
  std::vector<float> block;  // [count, width] on rank 0
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t count = std::min(most, rows - first);
    for (std::int64_t part = 0; part < parts; ++part) {
      const auto columns = gatherer.gather_columns(entry.parts[static_cast<std::size_t>(part)], first, count);  // [count, each]
      if (columns.empty()) continue;
      block.resize(static_cast<std::size_t>(count * width));
      for (std::int64_t i = 0; i < count; ++i) std::copy_n(columns.begin() + i * each, each, block.begin() + i * width + part * each);
    }
    take(block);
  }
}

}  // namespace

void gather_entry(Gatherer& gatherer, const ExportEntry& entry, const std::function<void(std::span<const float>)>& take) {
  if (entry.transposed) return gather_transposed(gatherer, entry, take);
  const std::int64_t elements = entry.file.shape.elements() / static_cast<std::int64_t>(entry.parts.size());
  for (const std::string& part : entry.parts) {
    for (std::int64_t first = 0; first < elements; first += Gatherer::kMost) {
      take(gatherer.gather(part, first, std::min(Gatherer::kMost, elements - first)));
    }
  }
}

}  // namespace offramp
