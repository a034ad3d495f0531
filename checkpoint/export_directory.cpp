#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string_view>

#include "checkpoint/huggingface.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

// Files that an export may hold: the rest of a directory is somebody's own.
bool is_ours(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  constexpr std::array<std::string_view, 3> kNames = {"config.json", "exits.json", "exits.safetensors"};
  const auto starts = [&](std::string_view prefix) { return name.starts_with(prefix); };
  const auto among = [&](const auto& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const bool known = among(kNames) || among(kTokenizerFiles) || starts("tokenizer.") || starts("tokenizer_config.") ||
                     name == "model.safetensors" || name == "model.safetensors.index.json" ||
                     (starts("model-") && name.ends_with(".safetensors"));
  return known && entry.symlink_status().type() == fs::file_type::regular;
}

// Why this directory must not be replaced; nothing where it may be.
std::optional<std::string> objection(const std::string& directory) {
  std::error_code error;
  const auto status = fs::status(directory, error);
  if (!fs::exists(status)) return std::nullopt;
  if (!fs::is_directory(status)) return "is a file, not a directory";
  bool marked = false, empty = true;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (!is_ours(entry)) return fmt::format("holds '{}', which is no part of an export", entry.path().filename().string());
    marked = marked || entry.path().filename() == "exits.json";
    empty = false;
  }
  if (error) return fmt::format("cannot be read: {}", error.message());
  if (!empty && !marked) return "holds a model that offramp did not write (it has no exits.json)";
  return std::nullopt;
}

// Follows links, so that the directory they lead to is replaced and not the link; drops a slash at the end.
std::string resolved(const std::string& directory) {
  std::error_code error;
  auto path = fs::weakly_canonical(fs::absolute(directory), error);
  if (error) path = fs::absolute(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.string();
}

void sync_all(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) sync_path(entry.path().string());
  sync_path(directory);
}

// Exchanges two names at once where the file system can, so that the export is there at every moment.
void swap_names(const std::string& fresh, const std::string& old) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, old.c_str(), RENAME_EXCHANGE) == 0) return;
  const std::string aside = fmt::format("{}.old-{}", old, ::getpid());
  if (std::rename(old.c_str(), aside.c_str()) != 0) fail_io(old, "replace", errno);
  if (std::rename(fresh.c_str(), old.c_str()) != 0) {
    const int error_number = errno;
    std::rename(aside.c_str(), old.c_str());
    fail_io(old, "replace", error_number);
  }
  if (std::rename(aside.c_str(), fresh.c_str()) != 0) fail_io(aside, "rename", errno);
}

}  // namespace

void check_export_target(const std::string& directory) {
  if (const auto why = objection(directory)) {
    fail(Exit::checkpoint, "{}: {}; nothing there was touched: name another directory for the export, or empty this one", directory, *why);
  }
  const ExportDirectory trial(directory);  // made and removed again: better refused now than after hours of training
}

ExportDirectory::ExportDirectory(const std::string& directory)
    : directory_(resolved(directory)), temporary_(fmt::format("{}.tmp-{}", directory_, ::getpid())) {
  std::error_code error;
  fs::create_directories(fs::path(directory_).parent_path(), error);
  if (!error) fs::remove_all(temporary_, error);  // left by a process that had our number and was killed
  if (!error) fs::create_directory(temporary_, error);
  if (error) fail_io(directory_, "create", error.value());
}

ExportDirectory::~ExportDirectory() {
  std::error_code ignored;
  if (!keep_) fs::remove_all(temporary_, ignored);
}

void ExportDirectory::commit() {
  for (const char* name : {"config.json", "exits.json"}) {
    OFFRAMP_CHECK(fs::exists(fs::path(temporary_) / name), "[ExportDirectory] {} was not written", name);
  }
  keep_ = true;  // from here on an error must not cost the user a trained model
  sync_all(temporary_);
  if (const auto why = objection(directory_)) {
    fail(Exit::checkpoint, "{}: {}; nothing there was touched, and the finished export is in {}", directory_, *why, temporary_);
  }
  if (fs::exists(directory_)) {
    swap_names(temporary_, directory_);
    std::error_code error;
    fs::remove_all(temporary_, error);
    if (error) fail_io(temporary_, "remove", error.value());
  } else if (std::rename(temporary_.c_str(), directory_.c_str()) != 0) {
    fail_io(directory_, "create", errno);
  }
  sync_path(fs::path(directory_).parent_path().string());
}

}  // namespace offramp
