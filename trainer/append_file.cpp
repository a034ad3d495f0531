#include "trainer/append_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "checkpoint/file.h"

namespace offramp {

AppendFile::AppendFile(std::string path) : path_(std::move(path)) {
  const auto parent = std::filesystem::path(path_).parent_path();
  std::error_code error;
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) fail_io(parent.string(), "create", error.value());
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_io(path_, "open", errno);
}

AppendFile::~AppendFile() { ::close(descriptor_); }

bool AppendFile::ends_with(char last) const {
  char c = 0;
  const auto size = ::lseek(descriptor_, 0, SEEK_END);
  return size <= 0 || (::pread(descriptor_, &c, 1, size - 1) == 1 && c == last);
}

void AppendFile::append(std::string_view record) {
  const auto size = ::lseek(descriptor_, 0, SEEK_END);
  ssize_t written = -1;
  do {
    written = ::write(descriptor_, record.data(), record.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(record.size())) return;
  warn(written < 0 ? errno : ENOSPC);  // a regular file takes a part only where there is no room for the rest
  // Where even this fails, the next run ends the torn line.
  if (written > 0 && ::ftruncate(descriptor_, size) != 0) warn(errno);
}

void AppendFile::warn(int error_number) {
  if (warned_) return;
  warned_ = true;
  fmt::print(stderr, "warning: {}: cannot write: {}; training goes on, this log will have gaps\n", path_, std::strerror(error_number));
}

}  // namespace offramp
