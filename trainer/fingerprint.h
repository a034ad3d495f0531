// Which file it is, without reading a terabyte: its size, and a checksum of 64 parts of it: all of a small one.
#pragma once
#include <span>
#include <string>

namespace offramp {

std::string fingerprint(const std::string& path);                    // "123456 <16 hex digits>"; throws Error(Exit::data)
std::string fingerprint_of_all(std::span<const std::string> paths);  // 16 hex digits, of names without folders and contents

}  // namespace offramp
