#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

// Advice: a kernel that takes none of it reads the same bytes, later.
void MappedFile::expect(Order order) const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, order == Order::random ? MADV_RANDOM : MADV_SEQUENTIAL);
}

void MappedFile::prefetch(std::size_t offset, std::size_t bytes) const {
  if (!data_ || offset >= size_) return;
  const std::size_t end = offset + std::min(bytes, size_ - offset), page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t from = offset / page * page;  // advice starts at a page
  ::madvise(const_cast<std::byte*>(data_) + from, end - from, MADV_WILLNEED);
}

}  // namespace offramp
