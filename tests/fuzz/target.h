// What fuzz targets share. A target gives bytes to one reader, as the files that it reads. The reader takes them, or throws the Error
// that its header promises; whatever else happens is a finding: another exception, a broken promise (Exit::internal), what a sanitizer
// sees, an allocation or a time beyond launch/fuzz's limits.
//
//   extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
//     Input input(data, size);
//     refused_with({Exit::checkpoint}, [&] { SafetensorsReader file(scratch().write("model.safetensors", input.rest())); });
//     return 0;
//   }
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>

#include "tensor/check.h"

namespace offramp::fuzz {

// The bytes of an input: of several files, each but the last behind its length. A length beyond the end means what is left.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : left_(reinterpret_cast<const char*>(data), size) {}
  std::string next() {
    std::uint32_t length = 0;
    const std::string number = take(sizeof(length));
    std::memcpy(&length, number.data(), number.size());
    return take(length);
  }
  std::string rest() { return take(left_.size()); }

 private:
  std::string take(std::size_t bytes) {
    const std::string_view taken = left_.substr(0, bytes);
    left_.remove_prefix(taken.size());
    return std::string(taken);
  }
  std::string_view left_;
};

// A directory of this process, below TMPDIR, which launch/fuzz has in memory.
class Scratch {
 public:
  Scratch() : path_((std::filesystem::temp_directory_path() / "offramp-fuzz-XXXXXX").string()) {
    if (!::mkdtemp(path_.data())) throw std::runtime_error(path_ + " cannot be made");
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string write(const std::string& name, std::string_view bytes) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  // An optional file: no bytes, no file.
  void write_some(const std::string& name, std::string_view bytes) const {
    if (bytes.empty()) {
      std::filesystem::remove(path_ + "/" + name);
    } else {
      write(name, bytes);
    }
  }

 private:
  std::string path_;
};
inline const Scratch& scratch() {
  static const Scratch only;
  return only;
}

template <class Read>
void refused_with(std::initializer_list<Exit> codes, Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    if (std::find(codes.begin(), codes.end(), error.code) == codes.end()) throw;
  }
}

inline void promise(bool kept, const char* what) {
  if (!kept) throw std::logic_error(what);
}

}  // namespace offramp::fuzz
