// Process: one process of one boot of one host, told from every other that ever had its number.
//
//   const Process me = this_process();
//   if (other.machine == me.machine && !alive(other)) ...   // the rule: only who runs on the same machine can tell
#pragma once
#include <cstdint>
#include <vector>

#include "comm/group.h"

namespace offramp {

struct Process {
  // This boot of this host and its namespace of process numbers. After a restart, or in another container, numbers mean others.
  std::uint64_t machine = 0;
  std::int64_t pid = 0, started = 0;  // started: in the system's ticks since the boot
  bool operator==(const Process&) const = default;
};

Process this_process();
// Whether any thread of it still runs: one that was killed goes on with the write(2) it is in.
bool alive(const Process& process);
// Collective: the processes of all ranks, in rank order.
std::vector<Process> all_processes(Context& ctx, const Group& world);

}  // namespace offramp
