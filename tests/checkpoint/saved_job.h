// Checkpoints of small jobs over ranks that are threads: what tests of checkpoints share.
#pragma once
#include <thread>

#include "checkpoint/saver.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {

// A machine of each rank of a job, on its thread.
inline void on_every_rank(SmallJob job, const std::function<void(Machine&, const Group&)>& body) {
  job.options.snapshot = true;
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  run_in_process(
      job.degrees().world(),
      [&](Group world) {
        const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), job.degrees()));
        Machine machine(job.options, Mesh(world, job.degrees()), Backing::host, plan.peak, [world] { world.progress(); });
        body(machine, world);
      },
      job.sends);
}

inline void train_steps(Machine& machine, const SmallJob& job, int first, int last) {
  const LogicalNames names(machine.model());
  fill_inputs(machine, job);
  PhaseTimes times;
  for (int t = first; t <= last; ++t) {
    fill_zero(machine.context(), machine.statistics());
    machine.train("a step", times);
    reduce_statistics(machine, names);
    update(machine, *job.optimizer, t);
  }
}

// Saves, and waits until it is done.
inline void save(Machine& machine, const Group& world, const std::string& directory, std::int64_t step, int keep = 0) {
  Saver saver({directory, "test", world.rank(), world.size(), keep}, machine.snapshot());
  take_snapshot(machine, machine.snapshot());
  Manifest head{.run_id = "test", .step = step};
  saver.begin(head, saved_boxes(machine));
  while (saver.busy()) {
    const Saver::Progress mine = saver.progress();
    double sums[3] = {mine.written, mine.failed, mine.published};
    all_reduce(machine.context(), Tensor(sums, {3}, DType::f64), world).wait(machine.context());
    const auto failure = saver.advance({sums[0], sums[1], sums[2]});
    ASSERT_FALSE(failure) << *failure;
    std::this_thread::yield();
  }
}

inline void restore(Machine& machine, const std::string& directory) {
  Checkpoint checkpoint(directory);
  checkpoint.verify();
  load_state(machine, checkpoint);
  machine.share_values();
}

using Numbers = std::map<std::string, std::vector<float>>;
// Every number of a checkpoint, by kind and tensor.
inline Numbers numbers_in(const std::string& directory) {
  Checkpoint checkpoint(directory);
  checkpoint.verify();
  Numbers all;
  for (const std::string& kind : checkpoint.kinds())
    for (const TensorEntry& entry : checkpoint.entries(kind)) {
      const Matrix m = matrix_of(entry.shape);
      std::vector<float>& values = all[kind + "/" + entry.name];
      values.resize(static_cast<std::size_t>(entry.shape.elements()));
      checkpoint.read(kind, entry.name, {0, m.rows, 0, m.columns}, values.data());
    }
  return all;
}

}  // namespace offramp::testing
