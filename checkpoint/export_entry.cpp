#include "checkpoint/export_entry.h"

namespace offramp {

std::vector<TensorEntry> file_entries(std::span<const ExportEntry> entries) {
  std::vector<TensorEntry> files;
  for (const ExportEntry& entry : entries) files.push_back(entry.file);
  return files;
}

Shape part_shape(const ExportEntry& entry) {
  const auto parts = static_cast<std::int64_t>(entry.parts.size());
  if (entry.transposed) return {entry.file.shape[1] / parts, entry.file.shape[0]};
  return parts == 1 ? entry.file.shape : Shape{entry.file.shape.elements() / parts};
}

std::vector<TensorEntry> logical_entries(std::span<const ExportEntry> entries) {
  std::vector<TensorEntry> all;
  for (const ExportEntry& entry : entries) {
    for (const std::string& part : entry.parts) all.push_back({part, part_shape(entry)});
  }
  return all;
}

}  // namespace offramp
