#include "trainer/fingerprint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checksum.h"
#include "tensor/check.h"

namespace offramp {

std::string fingerprint(const std::string& path) {
  constexpr std::int64_t kParts = 64, kBytes = 4096;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (descriptor < 0 || ::fstat(descriptor, &status) != 0) fail(Exit::data, "{}: cannot be read", path);
  std::string parts(static_cast<std::size_t>(kParts * kBytes), '\0');
  const std::int64_t size = status.st_size;
  for (std::int64_t i = 0; i < kParts; ++i) {
    const std::int64_t at = size <= kParts * kBytes ? i * kBytes : (size - kBytes) / (kParts - 1) * i;
    if (::pread(descriptor, parts.data() + i * kBytes, kBytes, at) < 0) fail(Exit::data, "{}: cannot be read", path);
  }
  ::close(descriptor);
  return fmt::format("{} {}", size, hex(checksum(parts)));
}

std::string fingerprint_of_all(std::span<const std::string> paths) {
  std::string all;
  for (const std::string& path : paths) all += fmt::format("{} {}\n", path.substr(path.find_last_of('/') + 1), fingerprint(path));
  return hex(checksum(all));
}

}  // namespace offramp
