#include "trainer/evaluate_samples.h"

#include <algorithm>

#include "trainer/loader.h"

namespace offramp {

void evaluate_samples(Machine& machine, const Dataset& data, std::int64_t samples, const std::string& name, Activity& activity,
                      const Subnet& subnet) {
  const MachineOptions& options = machine.options();
  const int data_rank = machine.mesh().at.data, data_size = machine.mesh().degrees.data;
  const std::int64_t wave = options.micro_batch_size * data_size, most = options.microbatches;
  Loader loader(data, {options.micro_batch_size, options.sequence_length, data_rank, data_size});
  fill_zero(machine.context(), machine.statistics());
  PhaseTimes times;
  for (std::int64_t first = 0; first < samples;) {
    const std::int64_t waves = std::min(most, (samples - first + wave - 1) / wave);
    activity.begin(name + ", data");
    loader.fill(first, samples, machine.inputs().first(static_cast<std::size_t>(waves)));
    machine.evaluate(static_cast<int>(waves), name, times, subnet);
    first += waves * wave;
  }
  activity.begin(name + ", statistics");
  all_reduce(machine.context(), machine.statistics(), machine.mesh().world).wait(machine.context());
}

}  // namespace offramp
