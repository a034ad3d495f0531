// The profile of some steps (logging.profile_steps), for whoever asks where the time goes. Collective: every rank takes part.
//
//   profiler.begin(step);  ... the step ...  profiler.end(step);   // after the last of them two files are written:
//
//   trace.json    what every rank did and which sums of gradients travelled meanwhile, for chrome://tracing or ui.perfetto.dev
//   profile.txt   time by operation on rank 0, beside what the operation's FLOPs or bytes take at the processor's best
#pragma once
#include <array>

#include "parallel/machine.h"

namespace offramp {

// What a processor does at best, as measured while all ranks measure; of this rank.
struct Peaks {
  double flops = 0, bytes = 0;  // a second: of a product in the working type; of memory read and written
};

class Profiler {
 public:
  struct Options {
    std::array<std::int64_t, 2> steps = {0, 0};  // first and last; zeros: none
    std::string directory;
    Peaks peaks;
  };
  Profiler(Options options, Machine& machine) : options_(std::move(options)), machine_(machine) {}
  void begin(std::int64_t step);
  void end(std::int64_t step);

 private:
  bool covers(std::int64_t step) const { return options_.steps[0] > 0 && options_.steps[0] <= step && step <= options_.steps[1]; }
  void write();

  Options options_;
  Machine& machine_;
  Trace trace_;
  Profile profile_;
  double began_ = 0, seconds_ = 0;  // of the profiled steps
};

// The table of profile.txt.
std::string profile_table(const Profile& profile, double seconds, const Peaks& peaks);

}  // namespace offramp
