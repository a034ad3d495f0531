#include "comm/host.h"

#include <unistd.h>

#include <array>

namespace offramp {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

std::string error_line(int rank, Exit code, const std::string& what) {
  return code == Exit::configuration ? what : fmt::format("offramp: rank {} on {}: {}", rank, host_name(), what);
}

}  // namespace offramp
