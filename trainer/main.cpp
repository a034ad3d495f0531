// The program: parses, dispatches, and turns whatever goes wrong into one line and an exit code. An error that every rank agreed
// on is printed once and all ranks end in order; any other ends the whole job, because the other ranks may be waiting for this one.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <new>

#include "comm/host.h"
#include "comm/mpi.h"
#include "trainer/commands.h"

namespace offramp {
namespace {

void report(const std::string& line) { std::fputs((line + "\n").c_str(), stderr); }

// Runs `work`; what it throws becomes an exit code, and goes to `tell(code, what)` first.
template <class Work, class Tell>
Exit guarded(Work&& work, Tell&& tell) {
  const auto told = [&](Exit code, const std::string& what) {
    tell(code, what);
    return code;
  };
  try {
    work();
    return Exit::ok;
  } catch (const AgreedError&) {
    throw;
  } catch (const Error& error) {
    return told(error.code, error.what());
  } catch (const std::bad_alloc&) {
    return told(Exit::memory, "out of memory; lower training.micro_batch_size or start fewer ranks on this host");
  } catch (const std::exception& error) {
    return told(Exit::internal, error.what());
  }
}

// Lines about a configuration begin with its file already.
void tell_alone(Exit code, const std::string& what) {
  const bool located = code == Exit::configuration && what.find(": ") != std::string::npos;
  report(located ? what : "offramp: " + what);
}

using Together = std::function<void(const Group& world, Activity&, Watchdog&)>;

Exit together_in(const Group& world, const Together& work, Activity& activity, Watchdog& watchdog) {
  try {
    return guarded([&] { work(world, activity, watchdog); },
                   [&](Exit code, const std::string& what) {
                     report(error_line(world.rank(), code, what));
                     abort_job(static_cast<int>(code));
                   });
  } catch (const AgreedError& error) {
    if (world.rank() == 0) report(error.what());
    return error.code;
  }
}

// The watchdog outlives the session: MPI's own beginning and end may stand still as well.
Exit on_every_rank(const Together& work, int& argc, char**& argv) {
  constexpr double kUntilConfigured = 300;  // seconds
  Activity activity;
  Watchdog watchdog(activity, {.timeout_s = kUntilConfigured, .rank = launched_rank()});
  MpiSession mpi(argc, argv);
  const Exit code = together_in(mpi.world(), work, activity, watchdog);
  activity.begin("ending");
  return code;
}

Exit run_together(const CommandLine& line, int& argc, char**& argv) {
  if (line.verb == CommandLine::Verb::eval)
    return on_every_rank([&](const Group& world, Activity& activity, Watchdog&) { run_evaluation(line.eval, world, activity); }, argc,
                         argv);
  if (line.verb == CommandLine::Verb::search)
    return on_every_rank([&](const Group& world, Activity& activity, Watchdog&) { run_search(line.search, world, activity); }, argc, argv);
  const Preemption preemption;  // before there are other threads
  return on_every_rank(
      [&](const Group& world, Activity& activity, Watchdog& watchdog) { run_training(line.train, world, activity, watchdog, preemption); },
      argc, argv);
}

Exit run(int argc, char** argv) {
  CommandLine line;
  // Every rank reads the same command line, so rank 0 speaks for all.
  const bool speaks = launched_rank() == 0;
  const Exit parsed = guarded(
      [&] {
        line = parse_command_line({argv + 1, argv + argc});
      },
      [&](Exit, const std::string& what) {
        if (speaks) report("offramp: " + what);
      });
  if (parsed != Exit::ok) return speaks ? parsed : Exit::ok;  // a rank that ends first, with an error, would silence rank 0
  if (works_alone(line)) return speaks ? guarded([&] { run_alone(line); }, tell_alone) : Exit::ok;
  Exit code = Exit::ok;
  const Exit started = guarded([&] { code = run_together(line, argc, argv); },
                               [](Exit failed, const std::string& what) { report(error_line(launched_rank(), failed, what)); });
  return started != Exit::ok ? started : code;
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed terminal or pipe must not end a training run
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond a limit: the write fails, and says which file
  return static_cast<int>(offramp::run(argc, argv));
}
