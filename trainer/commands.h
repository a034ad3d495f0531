// What each command does, given its arguments. Commands that one process does alone need no MPI: started under a launcher anyway,
// rank 0 does the work (works_alone, launched_rank) and the other ranks end at once.
//
//   if (works_alone(line)) return launched_rank() == 0 ? run_alone(line) : ok;
//   run_training(line.train, mpi.world(), activity, watchdog, preemption);                  // on every rank
//   run_evaluation(line.eval, mpi.world(), activity);
//   run_search(line.search, mpi.world(), activity);
#pragma once
#include "comm/group.h"
#include "comm/watchdog.h"
#include "trainer/command_line.h"
#include "trainer/preemption.h"

namespace offramp {

// This process's rank, and the number of ranks, as the launcher's environment says: 0 and 1 without a launcher.
int launched_rank();
int launched_size();

bool works_alone(const CommandLine& line);
// --help, tokenizer train, data build, checkpoint, import, export, train with --print-config, --config-reference or --dry-run. Prints to
// stdout.
void run_alone(const CommandLine& line);
// Collective. Configuration errors are agreed on: every rank throws the same AgreedError. Once the configuration is read, its
// timeout is the watchdog's.
void run_training(const TrainArguments& arguments, const Group& world, Activity& activity, Watchdog& watchdog,
                  const Preemption& preemption);
// Collective. Print to rank 0's stdout.
void run_evaluation(const EvalArguments& arguments, const Group& world, Activity& activity);
void run_search(const SearchArguments& arguments, const Group& world, Activity& activity);

}  // namespace offramp
