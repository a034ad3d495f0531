#include "checkpoint/box_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/hdf5.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kBuffer = std::int64_t{1} << 20;  // elements, if a row is no larger

// Goes over a file that has its structure, and puts numbers between.
class Pass {
 public:
  explicit Pass(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDWR | O_CLOEXEC)), sums_(kSummed) {
    if (descriptor_ < 0) fail_io(path_, "open", errno);
  }
  ~Pass() { ::close(descriptor_); }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  std::uint64_t size() const {
    const off_t end = ::lseek(descriptor_, 0, SEEK_END);
    if (end < 0) fail_io(path_, "read", errno);
    return static_cast<std::uint64_t>(end);
  }
  // What stands there already, up to `end`.
  void pass_over(std::uint64_t end) {
    std::vector<char> buffer;
    while (sums_.bytes() < end) {
      buffer.resize(std::min<std::uint64_t>(end - sums_.bytes(), kSummed));
      const ssize_t got = ::pread(descriptor_, buffer.data(), buffer.size(), static_cast<off_t>(sums_.bytes()));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) fail_io(path_, "read", got < 0 ? errno : EIO);
      sums_.add(buffer.data(), static_cast<std::size_t>(got));
    }
  }
  void write(const void* data, std::size_t bytes) {
    const char* next = static_cast<const char*>(data);
    for (std::size_t left = bytes; left > 0;) {
      const ssize_t put = ::pwrite(descriptor_, next, left, static_cast<off_t>(sums_.bytes() + bytes - left));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_io(path_, "write", errno);
      next += put, left -= static_cast<std::size_t>(put);
    }
    sums_.add(data, bytes);
  }
  std::vector<std::uint64_t> finish() {
    if (::fsync(descriptor_) != 0) fail_io(path_, "write", errno);
    return sums_.finish();
  }
  std::uint64_t at() const { return sums_.bytes(); }

 private:
  const std::string& path_;
  int descriptor_;
  Checksums sums_;
};

}  // namespace

StoredFile write_box_file(const std::string& directory, const std::string& name, std::vector<StoredBox>& boxes, const BoxRows& rows) {
  const std::string path = directory + "/" + name;
  for (std::size_t i = 0; i < boxes.size(); ++i) boxes[i].dataset = fmt::format("{}/{}/{}", boxes[i].kind, boxes[i].tensor, i);
  create_hdf5(path, boxes);
  std::vector<std::size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return boxes[a].offset < boxes[b].offset; });
  Pass pass(path);
  const std::uint64_t structure = pass.size();
  std::vector<float> buffer;
  for (const std::size_t i : order) {
    const Box& box = boxes[i].box;
    OFFRAMP_CHECK(boxes[i].offset >= pass.at(), "[write_box_file] {} overlaps the dataset before it", boxes[i].dataset);
    pass.pass_over(boxes[i].offset);
    const std::int64_t most = std::max<std::int64_t>(1, kBuffer / box.columns);
    for (std::int64_t first = 0; first < box.rows; first += most) {
      const std::int64_t count = std::min(most, box.rows - first);
      buffer.resize(static_cast<std::size_t>(count * box.columns));
      rows(i, first, count, buffer.data());
      pass.write(buffer.data(), buffer.size() * sizeof(float));
    }
  }
  pass.pass_over(std::max(structure, pass.at()));
  StoredFile file{.name = name, .bytes = pass.at(), .sums = {}};
  file.sums = pass.finish();
  return file;
}

StoredFile summed_file(const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  Pass pass(path);
  pass.pass_over(pass.size());
  StoredFile file{.name = name, .bytes = pass.at(), .sums = {}};
  file.sums = pass.finish();
  return file;
}

}  // namespace offramp
