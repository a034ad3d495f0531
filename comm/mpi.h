// Ranks as processes under a launcher (mpirun, srun). An MpiSession lives in main() around everything else. Started without a
// launcher the program is a world of one, and MPI is not even initialised.
//
//   int main(int argc, char** argv) {
//     MpiSession mpi(argc, argv);
//     try {
//       return run(mpi.world());
//     } catch (const AgreedError& error) {   // every rank threw it: all end in order
//       if (mpi.world().rank() == 0) fmt::print(stderr, "{}\n", error.what());
//       return static_cast<int>(error.code);
//     } catch (const Error& error) {         // the others may wait for this rank: end them all
//       fmt::print(stderr, "{}\n", error_line(mpi.world().rank(), error.code, error.what()));
//       abort_job(static_cast<int>(error.code));
//     }
//   }
//
// The rule: all groups are used by the thread that made the session. An error is caught while the session lives, as above; a
// session that an exception unwinds does not finalise MPI, which would wait for the other ranks, and then the launcher ends them.
#pragma once
#include <cstdint>

#include "comm/group.h"

namespace offramp {

class MpiSession {
 public:
  // Messages of more than `largest_part` elements travel in several parts, because MPI counts in 32 bits.
  MpiSession(int& argc, char**& argv, std::int64_t largest_part = std::int64_t{1} << 30);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  Group world() const { return world_; }
  // Whether a launcher that MPI can talk to started this process.
  static bool under_launcher();

 private:
  Group world_;
};

// What a sum of `bytes` (of reduce_scatter's `in`) borrows from the heap while it is under way, besides what MPI itself takes;
// all_gather borrows nothing. The process keeps it for later sums, so a step costs the total of the sums that it has under way at
// once: at most all its buckets.
std::size_t reduce_scatter_memory(std::size_t bytes, int ranks);
std::size_t all_reduce_memory(std::size_t bytes, int ranks);  // of f32 or f64; of bf16 it is reduce_scatter's

// Ends every rank of the job, now; the launcher returns `code`. Only on the session's thread: the watchdog uses _Exit.
[[noreturn]] void abort_job(int code);

}  // namespace offramp
