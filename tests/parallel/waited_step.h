// A step in which whatever computes waits instead, for as long as it was told to: machine, interpreter and messages are real, so many
// ranks on few cores show what a schedule takes in given times. The wait sleeps, wakes now and then to let messages move, and polls at
// its end; no wait is shorter than asked for, so what a step takes beyond the simulated time is what the code itself costs.
//
//   WaitedStep step(options, {.layer = 0.02, .head = 0.04}, world);
//   step.run() / step.simulated()
#pragma once
#include <thread>

#include "parallel/machine.h"
#include "parallel/step_schedule.h"

namespace offramp::testing {

// Seconds of a forward; the gradient of the input takes as long, and so does that of the weights.
struct Lengths {
  double layer = 0, head = 0;
};

inline double seconds_of(const Action& action, const Lengths& lengths, const std::vector<int>& layers, const Layout& layout) {
  const double stage = lengths.layer * layers[static_cast<std::size_t>(action.stage)];
  const double segment = action.index < 0 ? 1 : 1.0 / layout.segments_of(action.stage);
  switch (action.op) {
    case Op::Forward:
    case Op::Recompute:
      return stage;
    case Op::WeightGrad:
      return stage * segment;
    case Op::Backward:
      return stage * segment * (layout.split_backward ? 1 : 2);
    case Op::Exit:
      return 3 * lengths.head;
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
      return lengths.head / layout.ranks;
    default:
      return 0;
  }
}

inline void wait_for(double seconds, const Context& ctx) {
  using Clock = std::chrono::steady_clock;
  using namespace std::chrono_literals;
  constexpr Clock::duration kNap = 2ms, kAwake = 200us;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (auto left = end - Clock::now(); left > kAwake; left = end - Clock::now()) {
    ctx.beat();
    std::this_thread::sleep_for(std::min(kNap, left - kAwake));
  }
  while (Clock::now() < end) ctx.beat();
}

// One pipeline over the whole world.
class WaitedStep {
 public:
  WaitedStep(MachineOptions options, const Lengths& lengths, const Group& world) : world_(world) {
    Arena nowhere(Backing::none, kUnlimited);
    const Degrees degrees{.pipeline = world.size()};
    const Mesh planned = Mesh::planned(world.rank(), degrees);
    Holdings held(options, planned, nowhere);
    layout_ = step_layout(options, held, options.microbatches, true);
    std::vector<int> layers;
    for (int s = 0; s < layout_.stages; ++s) layers.push_back((held.partition.units(s).end - held.partition.units(s).begin) / 2);
    times_ = [lengths, layers, this](const Action& action) { return seconds_of(action, lengths, layers, layout_); };
    ScheduleOptions made = step_schedule(options, held, layout_);
    made.times = times_;
    schedule_ = build_schedule(made, layout_);
    options.known_schedule = std::make_shared<const Schedule>(schedule_);
    machine_ = std::make_unique<Machine>(options, Mesh(world, degrees), Backing::host, plan_memory(options, planned).peak,
                                         [world] { world.progress(); });
    machine_->stand_in([this](const Action& action) { wait_for(times_(action), machine_->context()); });
  }
  WaitedStep(const WaitedStep&) = delete;
  WaitedStep& operator=(const WaitedStep&) = delete;

  double simulated() const { return simulate(schedule_, layout_, times_).seconds; }
  double bound() const { return lower_bound(ActionGraph(layout_, times_)); }

  // Seconds from when all ranks are there until the last one has ended; the same on all of them.
  double run() {
    together();
    const auto begin = std::chrono::steady_clock::now();
    PhaseTimes phases;
    machine_->train("a step of waits", phases);
    together();
    return of_rank_0(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }

 private:
  void together() { of_rank_0(0); }
  double of_rank_0(double value) {
    double sum = world_.rank() == 0 ? value : 0;
    all_reduce(machine_->context(), Tensor(&sum, {1}, DType::f64), world_).wait(machine_->context());
    return sum;
  }

  Group world_;
  Layout layout_;
  Times times_;
  Schedule schedule_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace offramp::testing
