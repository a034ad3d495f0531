// A log file that grows by whole records, each of them one write(2), so that readers and killed jobs meet no half of one. A disk
// that is full costs records, never the job: the first failure is said on stderr, and what was written of the record is taken back.
//
//   AppendFile file("runs/quickstart/metrics.jsonl");   // makes the directory
//   file.append(line);
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace offramp {

class AppendFile {
 public:
  explicit AppendFile(std::string path);  // Error(Exit::checkpoint) where it cannot be opened
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  const std::string& path() const { return path_; }
  bool ends_with(char last) const;  // true for an empty file
  void append(std::string_view record);

 private:
  void warn(int error_number);

  std::string path_;
  int descriptor_ = -1;
  bool warned_ = false;
};

}  // namespace offramp
