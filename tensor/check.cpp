#include "tensor/check.h"

namespace offramp {

void broken(const char* condition, const std::string& what, std::source_location at) {
  throw Error(Exit::internal, fmt::format("{} ({} is false at {}:{})", what, condition, at.file_name(), at.line()));
}

}  // namespace offramp
