#include "data/publish.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "tensor/check.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void cannot_write(const std::string& path) {
  fail(Exit::checkpoint, "{}: cannot be written: {}; is the disk full?", path, std::strerror(errno));
}

}  // namespace

void flush_to_disk(std::FILE* file, const std::string& path) {
  if (std::fflush(file) != 0 || ::fsync(::fileno(file)) != 0) cannot_write(path);
}

void rename_published(const std::string& temporary, const std::string& path) {
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) fail(Exit::checkpoint, "{}: cannot be written: {}", path, error.message());
}

void publish_bytes(const std::string& path, const std::string& bytes) {
  const fs::path parent = fs::path(path).parent_path();
  const std::string temporary = path + ".tmp";
  std::error_code ignored;  // opening the file says it better
  if (!parent.empty()) fs::create_directories(parent, ignored);
  std::unique_ptr<std::FILE, Closer> file(std::fopen(temporary.c_str(), "wb"));
  if (!file) fail(Exit::checkpoint, "{}: cannot be opened: {}; choose an --output that can be written", temporary, std::strerror(errno));
  if (std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) cannot_write(temporary);
  flush_to_disk(file.get(), temporary);
  if (std::fclose(file.release()) != 0) cannot_write(temporary);
  rename_published(temporary, path);
}

}  // namespace offramp
