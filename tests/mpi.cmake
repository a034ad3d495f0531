# offramp_mpi_test(NAME RANKS COMMAND...): a test that runs COMMAND as RANKS processes under mpirun. More ranks than cores are
# fine. The command must watch itself (comm/watchdog.h), so that a hang prints each rank's current action; ctest's limit is the
# second net. offramp_mpi_environment(NAME...) gives a test that starts mpirun itself the same environment.
include_guard(GLOBAL)

set(OFFRAMP_MPI_RUN mpirun --allow-run-as-root --oversubscribe --bind-to none)
set(OFFRAMP_SANITIZERS ${CMAKE_CURRENT_LIST_DIR}/sanitizers)

function(offramp_mpi_environment)
  set_tests_properties(${ARGN} PROPERTIES TIMEOUT 120 ENVIRONMENT
    "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_hwloc_base_binding_policy=none;OMP_NUM_THREADS=1;ASAN_OPTIONS=fast_unwind_on_malloc=0;UBSAN_OPTIONS=print_stacktrace=1;LSAN_OPTIONS=suppressions=${OFFRAMP_SANITIZERS}/leaks.txt:print_suppressions=0;TSAN_OPTIONS=suppressions=${OFFRAMP_SANITIZERS}/threads.txt")
endfunction()

function(offramp_mpi_test name ranks)
  add_test(NAME ${name} COMMAND ${OFFRAMP_MPI_RUN} -np ${ranks} ${ARGN})
  offramp_mpi_environment(${name})
  set_tests_properties(${name} PROPERTIES PROCESSORS ${ranks})
endfunction()
