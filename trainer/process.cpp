#include "trainer/process.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include "comm/host.h"
#include "tensor/random.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

struct Stat {
  char state = 'X';
  std::int64_t started = 0;
};

// Fields 3 and 22 of a stat file; the second is a name in brackets that may hold anything. Nothing: there is no such process.
std::optional<Stat> read_stat(const fs::path& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  Stat stat;
  std::string skipped;
  fields >> stat.state;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  if (!(fields >> stat.started)) return std::nullopt;
  return stat;
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::uint64_t this_machine() {
  std::error_code ignored;
  const std::string numbers = fs::read_symlink("/proc/self/ns/pid", ignored).string();
  return hash(host_name() + "\n" + first_line("/proc/sys/kernel/random/boot_id") + "\n" + numbers);
}

bool runs(const Stat& stat) { return stat.state != 'Z' && stat.state != 'X'; }

}  // namespace

Process this_process() {
  const auto stat = read_stat("/proc/self/stat");
  return {this_machine(), ::getpid(), stat ? stat->started : 0};
}

bool alive(const Process& process) {
  const fs::path entry = fs::path("/proc") / std::to_string(process.pid);
  const auto stat = read_stat(entry / "stat");
  // Where /proc hides the processes of others, the system still says whether there is one.
  if (!stat) return ::kill(static_cast<pid_t>(process.pid), 0) == 0 || errno == EPERM;
  if (stat->started != process.started) return false;
  if (runs(*stat)) return true;
  std::error_code gone;  // the first thread has ended; others may be in the middle of a write
  for (fs::directory_iterator task(entry / "task", gone), end; !gone && task != end; task.increment(gone)) {
    const auto thread = read_stat(task->path() / "stat");
    if (thread && runs(*thread)) return true;
  }
  return false;
}

std::vector<Process> all_processes(Context& ctx, const Group& world) {
  static_assert(sizeof(Process) % sizeof(std::int32_t) == 0);
  constexpr std::int64_t kWords = sizeof(Process) / sizeof(std::int32_t);
  Process mine = this_process();
  std::vector<Process> all(static_cast<std::size_t>(world.size()));
  all_gather(ctx, Tensor(all.data(), {world.size() * kWords}, DType::i32), Tensor(&mine, {kWords}, DType::i32), world).wait(ctx);
  return all;
}

}  // namespace offramp
