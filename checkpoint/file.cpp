#include "checkpoint/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "tensor/check.h"

namespace offramp {
namespace {

// So much is left at most to the sync at the end: a disk's whole backlog would keep a rank, and those that wait for it, for minutes.
constexpr std::size_t kSyncBytes = std::size_t{64} << 20;

const char* advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free space there or name a directory on another disk";
    case EACCES:
    case EPERM:
    case EROFS:
      return "make the directory writable or name another one";
    case ENOENT:
      return "name a directory that exists";
    case ENOTDIR:
      return "a part of this path is a file; name another directory";
    case EFBIG:
      return "the file system or a limit (ulimit -f) allows no file of this size";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n)";
    default:
      return "check the disk";
  }
}

}  // namespace

void fail_io(const std::string& path, const char* action, int error_number) {
  fail(Exit::checkpoint, "{}: cannot {}: {}; {}", path, action, std::strerror(error_number), advice(error_number));
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)), temporary_(fmt::format("{}.tmp-{}", path_, ::getpid())) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_io(path_, "create", errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void OutputFile::write(const void* data, std::size_t bytes) {
  OFFRAMP_CHECK(descriptor_ >= 0, "[OutputFile] {} is finished", path_);
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_io(path_, "write", errno);
    next += written;
    bytes -= static_cast<std::size_t>(written);
    unsynced_ += static_cast<std::size_t>(written);
  }
  if (unsynced_ < kSyncBytes) return;
  if (::fdatasync(descriptor_) != 0) fail_io(path_, "write", errno);
  unsynced_ = 0;
}

void OutputFile::finish() {
  OFFRAMP_CHECK(descriptor_ >= 0, "[OutputFile] {} is finished", path_);
  if (::fsync(descriptor_) != 0) fail_io(path_, "write", errno);
  const int descriptor = std::exchange(descriptor_, -1);
  const bool renamed = ::close(descriptor) == 0 && std::rename(temporary_.c_str(), path_.c_str()) == 0;
  if (!renamed) {
    const int error_number = errno;
    ::unlink(temporary_.c_str());
    fail_io(path_, "write", error_number);
  }
  const auto parent = std::filesystem::path(path_).parent_path();
  sync_path(parent.empty() ? "." : parent.string());
}

void write_values(OutputFile& file, FloatType type, std::span<const float> values, const std::string& name) {
  if (type == FloatType::f32) return file.write(values.data(), values.size_bytes());
  std::array<std::byte, 65536> stored;
  while (!values.empty()) {
    const auto part = values.first(std::min(values.size(), stored.size() / size_of(type)));
    const auto lost = [](float value) { return std::isfinite(value) && std::isinf(from_f16(to_f16(value))); };
    if (const auto it = std::find_if(part.begin(), part.end(), lost); type == FloatType::f16 && it != part.end()) {
      fail(Exit::checkpoint, "{}: '{}' holds {}, more than fp16 can; export as bf16 or fp32", file.path(), name, *it);
    }
    narrow(type, part, stored.data());
    file.write(stored.data(), part.size() * size_of(type));
    values = values.subspan(part.size());
  }
}

void write_file(const std::string& path, std::string_view content) {
  OutputFile file(path);
  file.write(content.data(), content.size());
  file.finish();
}

void sync_path(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_io(path, "open", errno);
  const int error_number = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some network file systems know no sync of a directory.
  if (error_number != 0 && error_number != EINVAL) fail_io(path, "sync", error_number);
}

}  // namespace offramp
