#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tensor/check.h"

namespace offramp {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0)
    fail(Exit::data, "{}: {}; a data prefix names PREFIX.bin and PREFIX.idx, as `offramp data build` writes them", path,
         std::strerror(errno));
  struct stat status {};
  const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  void* at = nullptr;
  if (regular && status.st_size > 0) at = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  ::close(file);
  if (!regular) fail(Exit::data, "{}: not a regular file; name a PREFIX.bin and PREFIX.idx pair", path);
  if (at == MAP_FAILED) fail(Exit::data, "{}: cannot be mapped into memory: {}", path, std::strerror(error));
  size_ = static_cast<std::size_t>(status.st_size);
  data_ = static_cast<const std::byte*>(at);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace offramp
