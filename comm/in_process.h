// Ranks as threads of one process: the same Group on one machine without a launcher, for tests above all. Sums are taken in
// rank order. The rule: whatever a rank does with its groups happens inside `body`, on its own thread.
//
//   run_in_process(4, [](Group world) { Mesh mesh(world, {.tensor = 2, .pipeline = 2}); ... });
//
// The first exception of any rank ends all of them (ranks that wait throw Error(Exit::communication)) and is thrown again.
// When every rank waits or has returned, nobody can ever go on: that is an Error(Exit::communication), too, which lists what
// each rank waits for.
#pragma once
#include <functional>

#include "comm/group.h"

namespace offramp {

// When a send is done: at once, the message kept in a buffer, or once its receiver took it. MPI promises only the latter, so
// a program that passes under `rendezvous` cannot deadlock under MPI.
enum class Sends { buffered, rendezvous };

void run_in_process(int size, const std::function<void(Group world)>& body, Sends sends = Sends::buffered);

}  // namespace offramp
