#include "tensor/check.h"

namespace offramp {

void broken(const char* condition, const std::string& what, const char* file, int line) {
  throw Error(Exit::internal, fmt::format("{} ({} is false at {}:{})", what, condition, file, line));
}

}  // namespace offramp
