// A file mapped read-only into memory: random access without reading it first, and its pages can be dropped at any time.
// The kernel reads ahead as it is told to expect: much in order, nothing else at random.
//
//   MappedFile file("docs_train.idx");                        // fail(Exit::data) when it is missing
//   auto count = file.load<std::uint64_t>(18);                // any alignment; the caller has checked the size
//   file.expect(MappedFile::Order::random);
//   file.prefetch(offset, bytes);                             // starts reading them, does not wait
#pragma once
#include <cstddef>
#include <cstring>
#include <string>

namespace offramp {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::size_t size() const { return size_; }
  const std::byte* data() const { return data_; }

  enum class Order { sequential, random };
  void expect(Order order) const;
  void prefetch(std::size_t offset, std::size_t bytes) const;  // what lies beyond the end is left out

  template <class T>
  T load(std::size_t offset) const {
    T value;
    std::memcpy(&value, data_ + offset, sizeof(T));
    return value;
  }

 private:
  std::string path_;
  std::size_t size_ = 0;
  const std::byte* data_ = nullptr;  // null for an empty file
};

}  // namespace offramp
