// InputFile: bytes of a file, read where they are asked for. Trusts nothing but the length that it saw when it was opened.
//
//   const InputFile file("hf/model.safetensors");
//   file.read(8, header.data(), header.size());
//
// Every failure is an Error(Exit::checkpoint) that names the file. Reading does not move anything: threads may share one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace offramp {

class InputFile {
 public:
  explicit InputFile(std::string path);  // a regular file, or a link to one
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  void read(std::uint64_t offset, void* out, std::size_t bytes) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// A whole file of at most so many bytes.
std::string read_file(const std::string& path, std::uint64_t most);

}  // namespace offramp
