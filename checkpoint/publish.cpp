#include "checkpoint/publish.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <set>

#include "checkpoint/box_file.h"
#include "checkpoint/file.h"
#include "checkpoint/hdf5.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndex = "index.h5";
constexpr const char* kLatest = "latest";

// Gives a directory its name. One of that name, of an earlier run that came as far, changes places with it in one step.
void rename_directory(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return;
  if (errno != EEXIST && errno != ENOTEMPTY) fail_io(to, "rename to", errno);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    const std::string aside = from + "-old";
    if (::rename(to.c_str(), aside.c_str()) != 0 || ::rename(from.c_str(), to.c_str()) != 0) fail_io(to, "rename to", errno);
    fs::rename(aside, from);
  }
  fs::remove_all(from);
}

// Files that no writer of numbers has listed: the index, a tokenizer's.
void list_others(const std::string& directory, Manifest& manifest) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  for (const StoredFile& file : manifest.files) names.erase(file.name);
  for (const std::string& name : names) manifest.files.push_back(summed_file(directory, name));
}

// The tensors of one file of several: as many as bring all before it, and it, to its share of the bytes.
std::vector<TensorOfKind> share_of(const std::vector<TensorOfKind>& tensors, int file, int files) {
  std::int64_t all = 0, before = 0;
  for (const TensorOfKind& t : tensors) all += t.shape.elements();
  std::vector<TensorOfKind> mine;
  for (const TensorOfKind& t : tensors) {
    if (before * files / std::max<std::int64_t>(1, all) == file) mine.push_back(t);
    before += t.shape.elements();
  }
  return mine;
}

}  // namespace

void remove_unfinished(const std::string& directory) {
  std::error_code ignored;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename();
    const bool ours = name.starts_with("step-") || name.starts_with(kLatest);
    if (ours && name.find(".tmp-") != std::string::npos) left.push_back(entry.path());
  }
  for (const fs::path& path : left) fs::remove_all(path, ignored);
}

void publish(const std::string& temporary, const std::string& directory, Manifest manifest) {
  write_file(temporary + "/" + kIndex, hdf5_index_of(manifest));
  list_others(temporary, manifest);
  write_file(temporary + "/manifest.json", to_json(manifest));
  sync_path(temporary);
  const std::string step = step_directory(directory, manifest.step);
  rename_directory(temporary, step);
  sync_path(directory);
  write_file(directory + "/" + kLatest, fs::path(step).filename().string() + "\n");
}

void write_checkpoint(const std::string& directory, Manifest head, const std::vector<TensorOfKind>& tensors, const ReadBox& read, int files,
                      const std::function<void(const std::string& directory)>& add_files) {
  const std::string temporary = fmt::format("{}.tmp-{}", step_directory(directory, head.step), head.run_id);
  std::error_code error;
  fs::create_directories(temporary, error);
  if (error) fail_io(temporary, "create", error.value());
  for (int f = 0; f < files; ++f) {
    const std::vector<TensorOfKind> mine = share_of(tensors, f, files);
    std::vector<StoredBox> boxes;
    for (const TensorOfKind& t : mine) {
      const Matrix matrix = matrix_of(t.shape);
      boxes.push_back({.kind = t.kind, .tensor = t.tensor, .shape = t.shape, .box = {0, matrix.rows, 0, matrix.columns}});
    }
    const auto rows = [&](std::size_t i, std::int64_t first, std::int64_t count, float* room) -> const float* {
      read(mine[i], {first, count, 0, boxes[i].box.columns}, room);
      return room;
    };
    const std::size_t file = head.files.size();
    head.files.push_back(write_box_file(temporary, fmt::format("rank-{:05}.h5", f), boxes, rows));
    for (StoredBox& box : boxes) box.file = file, head.boxes.push_back(box);
  }
  if (add_files) add_files(temporary);
  publish(temporary, directory, std::move(head));
}

}  // namespace offramp
