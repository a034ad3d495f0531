// Output files that are either whole or not there: written under a temporary name, synced, then renamed.
//
//   OutputFile file("hf/config.json");
//   file.write(text.data(), text.size());      // any number of times
//   file.finish();                             // without it, nothing is left
//
// Every failure is an Error(Exit::checkpoint) that names the file, the system's reason and what to do about it.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/float_type.h"

namespace offramp {

class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  void write(const void* data, std::size_t bytes);
  void finish();

 private:
  std::string path_, temporary_;
  int descriptor_ = -1;
  std::size_t unsynced_ = 0;  // bytes
};

// Values as a file of this type stores them, a bounded part at a time; `name` is the tensor's, for the error that a finite value
// which f16 cannot hold is.
void write_values(OutputFile& file, FloatType type, std::span<const float> values, const std::string& name);

void write_file(const std::string& path, std::string_view content);

// Makes a file's content, or a directory's list of names, survive a power cut.
void sync_path(const std::string& path);

// Throws Error(Exit::checkpoint): "<path>: cannot <action>: <the system's reason>; <what to do>".
[[noreturn]] void fail_io(const std::string& path, const char* action, int error_number);

}  // namespace offramp
