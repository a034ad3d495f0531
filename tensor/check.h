// Errors. Whatever goes wrong becomes one Error that carries the process's exit code; main() turns it into one line and
// ends the whole job, so that no rank waits for a dead one. Nothing else calls exit().
//
//   OFFRAMP_CHECK(x.shape[1] == w.shape[1], "[linear] x has {} columns, w has {}", x.shape[1], w.shape[1]);   // our mistake
//   fail(Exit::data, "{}: offset {}: token {} is outside the vocabulary of {}", file, offset, token, vocabulary);  // the user's
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace offramp {

// The process exit codes, part of the command line's contract.
enum class Exit : int { ok = 0, internal = 1, configuration = 2, data = 3, checkpoint = 4, memory = 5, numerical = 6, communication = 7, preempted = 75 };

struct Error : std::runtime_error {
  Exit code;
  Error(Exit exit_code, const std::string& what) : std::runtime_error(what), code(exit_code) {}
};

// Throws an Error that tells the user what is wrong and what to change.
template <class... Args>
[[noreturn]] void fail(Exit code, fmt::format_string<Args...> text, Args&&... args) {
  throw Error(code, fmt::format(text, std::forward<Args>(args)...));
}

// Throws Error(Exit::internal) with the source location: a broken promise between two pieces of our own code.
[[noreturn]] void broken(const char* condition, const std::string& what, const char* file = __builtin_FILE(), int line = __builtin_LINE());

}  // namespace offramp

#define OFFRAMP_CHECK(condition, ...)                                          \
  do {                                                                         \
    if (!(condition)) ::offramp::broken(#condition, fmt::format(__VA_ARGS__)); \
  } while (0)
