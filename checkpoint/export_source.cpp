#include "checkpoint/export_source.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/huggingface.h"
#include "checkpoint/input_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kPart = std::int64_t{1} << 20, kTile = std::int64_t{1} << 24;  // elements at a time

void write_as_it_is(SafetensorsWriter& writer, const ExportEntry& entry, TensorSource& source, std::vector<float>& values) {
  const std::int64_t elements = part_shape(entry).elements();
  for (const std::string& part : entry.parts) {
    for (std::int64_t first = 0; first < elements; first += kPart) {
      values.resize(static_cast<std::size_t>(std::min(kPart, elements - first)));
      source.read(part, first, static_cast<std::int64_t>(values.size()), values.data());
      writer.write(values);
    }
  }
}

// Some rows of the file at a time, mostly all: each is a column of every part. So of each of the parts' rows a stretch is read, and of
// several rows at once where the stretch is all of them.
void write_transposed(SafetensorsWriter& writer, const ExportEntry& entry, TensorSource& source, std::vector<float>& values) {
  const std::int64_t rows = entry.file.shape[0], width = entry.file.shape[1], each = part_shape(entry)[0];
  const std::int64_t most = std::max<std::int64_t>(1, kTile / width);
  std::vector<float> read;
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t count = std::min(most, rows - first), group = count == rows ? std::max<std::int64_t>(1, kPart / rows) : 1;
    values.resize(static_cast<std::size_t>(count * width));
    for (std::int64_t column = 0, taken = 0; column < width; column += taken) {
      taken = std::min(group, each - column % each);
      read.resize(static_cast<std::size_t>(taken * count));
      source.read(entry.parts[static_cast<std::size_t>(column / each)], column % each * rows + first, taken * count, read.data());
      for (std::int64_t j = 0; j < taken; ++j)
        for (std::int64_t i = 0; i < count; ++i)
          values[static_cast<std::size_t>(i * width + column + j)] = read[static_cast<std::size_t>(j * count + i)];
    }
    writer.write(values);
  }
}

std::uint64_t bytes_of(const ExportEntry& entry, FloatType type) {
  return static_cast<std::uint64_t>(entry.file.shape.elements()) * size_of(type);
}

// How many entries each file gets, in order; one that is larger than a file may be has one alone.
std::vector<std::size_t> shard_counts(std::span<const ExportEntry> entries, const HuggingFaceExport& options) {
  std::vector<std::size_t> counts;
  std::uint64_t filled = 0;
  for (const ExportEntry& entry : entries) {
    const std::uint64_t bytes = bytes_of(entry, options.type);
    const bool full = options.max_shard_bytes > 0 && filled + bytes > options.max_shard_bytes;
    if (counts.empty() || full) counts.push_back(0), filled = 0;
    ++counts.back();
    filled += bytes;
  }
  return counts;
}

}  // namespace

void write_entries(const std::string& path, std::span<const ExportEntry> entries, TensorSource& source, FloatType type,
                   const std::function<void()>& beat) {
  SafetensorsWriter writer(path, file_entries(entries), SafetensorsWriter::Metadata::pt, type);
  std::vector<float> values;
  for (const ExportEntry& entry : entries) {
    if (entry.transposed) {
      write_transposed(writer, entry, source, values);
    } else {
      write_as_it_is(writer, entry, source, values);
    }
    beat();
  }
  writer.finish();
}

namespace {

void write_backbone(const std::string& directory, std::span<const ExportEntry> entries, TensorSource& source,
                    const HuggingFaceExport& options) {
  const auto counts = shard_counts(entries, options);
  if (counts.size() == 1) return write_entries(directory + "/model.safetensors", entries, source, options.type);
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, counts.size());
    write_entries(directory + "/" + name, entries.first(counts[i]), source, options.type);
    for (const ExportEntry& entry : entries.first(counts[i])) {
      map[entry.file.name] = name;
      total += bytes_of(entry, options.type);
    }
    entries = entries.subspan(counts[i]);
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  write_file(directory + "/model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace

void export_source(TensorSource& source, const ModelConfig& model, const HuggingFaceExport& options) {
  check_export_target(options.directory);
  ExportDirectory out(options.directory);
  if (options.write_tokenizer) options.write_tokenizer(out.path());
  write_config_json(out.path(), model, options.end_token, options.type);
  write_exits_json(out.path(), options.exits);
  write_backbone(out.path(), backbone_entries(model), source, options);
  write_entries(out.path() + "/exits.safetensors", exit_entries(model, options.exits), source, options.type);
  out.commit();
}

int copy_tokenizer_files(const std::string& from, const std::string& to) {
  constexpr std::uint64_t kMost = 1'000'000'000;
  int count = 0;
  for (const std::string_view name : kTokenizerFiles) {
    const std::string path = fmt::format("{}/{}", from, name);
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) continue;
    write_file(fmt::format("{}/{}", to, name), read_file(path, kMost));
    ++count;
  }
  return count;
}

}  // namespace offramp
