#include "trainer/lock_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "checkpoint/file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::size_t kLargest = std::size_t{16} << 20;  // of what somebody else may have put there, no more is read

// The file, open and, where it can be, locked. Closing it gives the lock back.
class Opened {
 public:
  enum class If { exists, or_new };
  enum class Lock { mine, none, others };  // none: there are no locks here
  Opened(std::string path, If which, const LockFile::Options& options) : path_(std::move(path)) {
    do {  // whoever held the lock before may have removed the file that was opened: then there is another, or none
      close();
      descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | (which == If::or_new ? O_CREAT : 0), 0666);
      if (descriptor_ < 0 && errno == ENOENT && which == If::exists) return;
      if (descriptor_ < 0) fail_io(path_, "open", errno);
      lock_ = options.locks ? take_lock(options.patience_s) : Lock::none;
    } while (lock_ == Lock::mine && !is_current());
  }
  ~Opened() { close(); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  Lock lock() const { return lock_; }

  std::string read() const {
    std::string text;
    if (descriptor_ < 0) return text;
    std::array<char, 4096> part{};
    for (;;) {
      const auto n = ::pread(descriptor_, part.data(), part.size(), static_cast<off_t>(text.size()));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "read", errno);
      if (n == 0 || text.size() > kLargest) return text;
      text.append(part.data(), static_cast<std::size_t>(n));
    }
  }

  void write(const std::string& text) {
    for (std::size_t done = 0; done < text.size();) {
      const auto n = ::pwrite(descriptor_, text.data() + done, text.size() - done, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "write", errno);
      done += static_cast<std::size_t>(n);
    }
    if (::ftruncate(descriptor_, static_cast<off_t>(text.size())) != 0) fail_io(path_, "write", errno);
    if (::fdatasync(descriptor_) != 0) fail_io(path_, "write", errno);  // so that other hosts see it
  }

  void remove() { ::unlink(path_.c_str()); }

 private:
  void close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

  // Of the open file, not of the process: other threads that close theirs do not end it. Whoever has it may have been stopped, so it is not
  // waited for without end.
  Lock take_lock(double patience_s) {
    struct flock range {};
    range.l_type = F_WRLCK;
    range.l_whence = SEEK_SET;
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_s);
    while (::fcntl(descriptor_, F_OFD_SETLK, &range) != 0) {
      if (errno == EINTR) continue;
      if (errno == ENOLCK || errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP) return Lock::none;
      if (errno != EAGAIN && errno != EACCES) fail_io(path_, "lock", errno);
      if (std::chrono::steady_clock::now() > end) return Lock::others;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return Lock::mine;
  }

  bool is_current() const {
    struct stat opened {
    }, named{};
    return ::fstat(descriptor_, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
           opened.st_dev == named.st_dev;
  }

  std::string path_;
  int descriptor_ = -1;
  Lock lock_ = Lock::none;
};

}  // namespace

LockFile::LockFile(std::string path) : LockFile(std::move(path), Options()) {}

std::string LockFile::read() const { return Opened(path_, Opened::If::exists, options_).read(); }

bool LockFile::replace(const std::string& seen, const std::string& next) {
  {
    Opened file(path_, Opened::If::or_new, options_);
    if (file.lock() == Opened::Lock::others)
      fail(Exit::checkpoint, "{}: another process has held its lock for {:g} s and does not go on; end that process", path_,
           options_.patience_s);
    if (file.read() != seen) return false;
    if (next.empty()) {
      file.remove();
      return true;
    }
    file.write(next);
    if (file.lock() == Opened::Lock::mine) return true;
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(options_.settle_s));
  return read() == next;
}

}  // namespace offramp
