// What tests under mpirun share: tests/mpi_main.cpp is the main() of a *_mpi_tests binary. All ranks run the same tests in the
// same order; a failed assertion prints on the rank it failed on, rank 0 prints the rest, and every rank ends with status 1.
#pragma once
#include "comm/group.h"

namespace offramp::testing_mpi {

const Group& world();
Context& context();  // with the activity that the watchdog prints: the name of the test, and what it waits for

}  // namespace offramp::testing_mpi
