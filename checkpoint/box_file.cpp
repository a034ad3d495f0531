#include "checkpoint/box_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/hdf5.h"
#include "checkpoint/input_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kBuffer = std::int64_t{1} << 20;  // elements, if a row is no larger

// Writes a file from its first byte to its last, and sums it on the way.
class Pass {
 public:
  explicit Pass(const std::string& path)
      : path_(path), descriptor_(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644)), sums_(kSummed) {
    if (descriptor_ < 0) fail_io(path_, "create", errno);
  }
  ~Pass() { ::close(descriptor_); }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  void write(const void* data, std::size_t bytes) {
    const char* next = static_cast<const char*>(data);
    for (std::size_t left = bytes; left > 0;) {
      const ssize_t put = ::write(descriptor_, next, left);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_io(path_, "write", errno);
      next += put, left -= static_cast<std::size_t>(put);
    }
    sums_.add(data, bytes);
    start_writing();
  }
  // The structure up to `end`; zeros where there is none.
  void write(const Hdf5Structure& structure, std::uint64_t end) {
    while (at() < end) {
      const auto next = structure.pieces.lower_bound(at());
      const std::uint64_t gap = std::min(end, next == structure.pieces.end() ? end : next->first) - at();
      const std::string zeros(std::min<std::uint64_t>(gap, kSummed), '\0');
      if (gap > 0)
        write(zeros.data(), zeros.size());
      else
        write(next->second.data(), next->second.size());
    }
  }
  std::vector<std::uint64_t> sums() { return sums_.finish(); }
  void sync() {
    if (::fsync(descriptor_) != 0) fail_io(path_, "write", errno);
  }
  std::uint64_t at() const { return sums_.bytes(); }

 private:
  // The disk works while the next part is summed and copied, instead of all at once when it is synced. Only a hint.
  void start_writing() {
    constexpr std::uint64_t kAtOnce = std::uint64_t{16} << 20;
    if (at() - started_ < kAtOnce) return;
    ::sync_file_range(descriptor_, static_cast<off_t>(started_), static_cast<off_t>(at() - started_), SYNC_FILE_RANGE_WRITE);
    started_ = at();
  }

  const std::string& path_;
  int descriptor_;
  Checksums sums_;
  std::uint64_t started_ = 0;
};

}  // namespace

StoredFile write_box_file(const std::string& directory, const std::string& name, std::vector<StoredBox>& boxes, const BoxRows& rows) {
  const std::string path = directory + "/" + name;
  for (std::size_t i = 0; i < boxes.size(); ++i) boxes[i].dataset = fmt::format("{}/{}/{}", boxes[i].kind, boxes[i].tensor, i);
  const Hdf5Structure structure = hdf5_of(boxes);
  std::vector<std::size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return boxes[a].offset < boxes[b].offset; });
  Pass pass(path);
  std::vector<float> buffer;
  for (const std::size_t i : order) {
    const Box& box = boxes[i].box;
    pass.write(structure, boxes[i].offset);
    OFFRAMP_CHECK(boxes[i].offset == pass.at(), "[write_box_file] {} overlaps what stands before it", boxes[i].dataset);
    const std::int64_t most = std::max<std::int64_t>(1, kBuffer / box.columns);
    for (std::int64_t first = 0; first < box.rows; first += most) {
      const std::int64_t count = std::min(most, box.rows - first);
      buffer.resize(static_cast<std::size_t>(count * box.columns));
      pass.write(rows(i, first, count, buffer.data()), buffer.size() * sizeof(float));
    }
  }
  pass.write(structure, structure.size);
  Manifest mine;
  mine.files = {{.name = name, .bytes = pass.at(), .sums = pass.sums()}};
  mine.boxes = boxes;
  verify_files(directory, mine);  // while the disk is still at work
  pass.sync();
  return mine.files.front();
}

StoredFile summed_file(const std::string& directory, const std::string& name) {
  const InputFile input(directory + "/" + name);
  Checksums sums(kSummed);
  std::string part;
  for (std::uint64_t at = 0; at < input.size(); at += part.size()) {
    part.resize(std::min<std::uint64_t>(input.size() - at, kSummed));
    input.read(at, part.data(), part.size());
    sums.add(part.data(), part.size());
  }
  StoredFile file{.name = name, .bytes = input.size(), .sums = {}};
  file.sums = sums.finish();
  return file;
}

}  // namespace offramp
