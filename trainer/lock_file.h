// LockFile: a small text that one of several processes replaces at a time, on any hosts that share the file system.
//
//   LockFile file("runs/quickstart/run.lock");
//   const std::string seen = file.read();           // "": there is none
//   if (file.replace(seen, mine)) ...               // only if it still says what was seen: then it says `mine`, and nobody else's
//   file.replace(mine, "");                         // away
//
// Between reading and writing the file is locked (fcntl's locks, which network file systems carry too, and which end with whoever
// holds them), and every call opens it anew, which is when those file systems look at the server. Where there are no such locks,
// replace() waits and looks again: of several that wrote, the last has it. A crash in the middle of a write leaves a torn text. A process
// that was stopped while it held a lock keeps it: then read() reads without one, and replace() gives up.
#pragma once
#include <string>

namespace offramp {

class LockFile {
 public:
  struct Options {
    bool locks = true;         // false: as on a file system that has none
    double settle_s = 1.0;     // without locks: more than any pause between reading and writing
    double patience_s = 10.0;  // how long a lock that others hold is waited for; they need milliseconds
  };
  explicit LockFile(std::string path);
  LockFile(std::string path, Options options) : path_(std::move(path)), options_(options) {}

  const std::string& path() const { return path_; }
  // Both throw Error(Exit::checkpoint) where the file cannot be read or written.
  std::string read() const;
  bool replace(const std::string& seen, const std::string& next);

 private:
  std::string path_;
  Options options_;
};

}  // namespace offramp
