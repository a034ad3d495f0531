// What tests of files share: a directory of their own, whole files, and the Python that compares.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "tensor/check.h"

namespace offramp {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "offramp test XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

// What the action's failure says; it must be one of output, Exit::checkpoint.
inline std::string checkpoint_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::checkpoint) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

// The Python with the packages of tests/requirements.txt, which launch/test sets up; null without it.
inline const char* python() { return std::getenv("OFFRAMP_PYTHON"); }

// Runs a program with one argument; what it printed. A failure is the test's.
inline std::string run_python(const TemporaryDirectory& directory, const std::string& program, const std::string& argument) {
  write_bytes(directory / "check.py", program);
  const std::string command =
      "'" + std::string(python()) + "' '" + directory / "check.py' '" + argument + "' 2>'" + directory / "check.err'";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output.push_back(static_cast<char>(c));
  const int status = ::pclose(pipe);
  EXPECT_EQ(WEXITSTATUS(status), 0) << read_bytes(directory / "check.err");
  return output;
}

}  // namespace offramp

#define OFFRAMP_NEEDS_PYTHON() \
  if (!::offramp::python()) GTEST_SKIP() << "OFFRAMP_PYTHON names no Python; launch/test sets one up"
