// Steps whose passes learn from a frozen teacher: what it teaches, that no layout or schedule changes it, and that it stays what it was.
#include "tests/parallel/supernet_job.h"

namespace offramp::testing {
namespace {

constexpr std::uint64_t kTeacherSeed = 1234, kLearnerSeed = 99;  // run_rank() begins with the teacher's

const Pass kTaughtWhole{.subnet = {}, .weight = 0.5, .teaching = Teaching::frozen, .regularise = false};

// The teacher is the model as it begins; then the model becomes another one.
void take_and_move_on(Machine& machine) {
  machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline);
  machine.flat().initialize(machine.context(), kLearnerSeed);
}

SmallJob taught_job(const std::vector<Pass>& students, bool tied = false) {
  std::vector<Pass> passes{kTeacherPass};
  passes.insert(passes.end(), students.begin(), students.end());
  SmallJob job = supernet_job(passes, tied);
  job.before = take_and_move_on;
  return job;
}

std::vector<Pass> shrinking() {
  std::vector<Pass> students{kTaughtWhole};
  for (const Pass& pass : small_subnets(Teaching::frozen)) students.push_back(pass);
  return students;
}

TEST(MachineTeacher, GradientsAreTheSumOfEachPassAlone) {
  for (const bool tied : {false, true}) {
    ByName sum;
    for (const Pass& student : shrinking()) add(sum, run_small_job(taught_job({student}, tied)).grads);
    expect_close(run_small_job(taught_job(shrinking(), tied)).grads, sum, 1e-5, tied ? "tied" : "");
  }
}

// Gradients of the labels' own steps come on top.
TEST(MachineTeacher, LabelsMayBeLearnedBesides) {
  std::vector<Pass> told{subnet({}, 0.5, Teaching::labels)};
  for (const Pass& pass : small_subnets(Teaching::labels)) told.push_back(pass);
  SmallJob labels = supernet_job(told);
  labels.before = [](Machine& machine) { machine.flat().initialize(machine.context(), kLearnerSeed); };
  ByName expected = run_small_job(labels).grads;
  for (auto& [name, values] : expected)
    for (float& value : values) value *= 0.75f;
  add(expected, run_small_job(taught_job(shrinking())).grads);
  for (const Degrees& degrees : {Degrees{1, 1, 1}, Degrees{2, 2, 1}}) {
    SmallJob both = taught_job(shrinking());
    both.options.label_weight = 0.75;
    both.tensor = degrees.tensor, both.pipeline = degrees.pipeline;
    expect_close(run_small_job(both).grads, expected, 1e-5, both.text());
  }
}

// Where it is what the model is now, it says what the whole says.
TEST(MachineTeacher, TeachesWhatTheWholeWould) {
  Pass unweighted;
  unweighted.weight = 0;
  for (const int pipeline : {1, 2})
    for (std::size_t i = 0; i < 4; ++i) {
      SmallJob in_place = supernet_job({unweighted, small_subnets(Teaching::whole)[i]});
      SmallJob frozen = supernet_job({kTeacherPass, small_subnets(Teaching::frozen)[i]});
      frozen.before = [](Machine& machine) { machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline); };
      in_place.pipeline = frozen.pipeline = pipeline;
      EXPECT_EQ(run_small_job(frozen).grads, run_small_job(in_place).grads) << i;
    }
}

// Acceptance, the sum of min(p, q), is the same whoever of two models is the teacher: so either is computed with its own weights.
TEST(MachineTeacher, TeachesWithItsOwnWeights) {
  SmallJob job = taught_job({kTaughtWhole}), swapped = job;
  swapped.before = [](Machine& machine) {
    machine.flat().initialize(machine.context(), kLearnerSeed);
    machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline);
    machine.flat().initialize(machine.context(), kTeacherSeed);
  };
  const auto of_final_head = [](const StepResult& result) { return result.sums[result.sums.size() - kLossSums + 4]; };
  const StepResult result = run_small_job(job);
  const double acceptance = of_final_head(result), tokens = result.sums[result.sums.size() - kLossSums + 3];
  EXPECT_LT(acceptance, 0.95 * tokens);
  EXPECT_GT(acceptance, 0.05 * tokens);
  EXPECT_NEAR(of_final_head(run_small_job(swapped)), acceptance, 1e-5 * acceptance);
}

struct Case {
  Degrees degrees;
  bool rows = false;
  std::string schedule = "1f1b", placement = "auto", recompute = "none";
};

// Whose memory is what was planned, everywhere.
TEST(MachineTeacher, NoLayoutOrScheduleChangesWhatItTeaches) {
  const std::vector<Case> cases = {{{1, 2, 1}},
                                   {{2, 1, 1}},
                                   {{2, 2, 1}},
                                   {{2, 2, 1}, true},
                                   {{1, 1, 2}},
                                   {{1, 4, 1}, false, "1f1b", "before_backward"},
                                   {{1, 4, 1}, false, "1f1b", "after_forward", "full"},
                                   {{1, 2, 1}, false, "gpipe"},
                                   {{1, 2, 1}, false, "zero_bubble", "auto", "selective"},
                                   {{2, 2, 2}, true}};
  for (const bool tied : {false, true}) {
    SmallJob lone = taught_job(shrinking(), tied);
    lone.options.temperature = tied ? 2.5 : 1;
    const StepResult alone = run_small_job(lone);
    expect_all_used(alone, "alone");
    for (const Case& c : cases) {
      SmallJob job = lone;
      job.tensor = c.degrees.tensor, job.pipeline = c.degrees.pipeline, job.data = c.degrees.data;
      job.options.sequence_parallel = c.rows, job.options.shard_state = job.data > 1;
      job.options.schedule = c.schedule, job.options.exit_placement = c.placement, job.options.recompute = c.recompute;
      const std::string what = fmt::format("{} {} {} {}", job.text(), c.schedule, c.placement, c.recompute);
      const StepResult result = run_small_job(job);
      expect_close(result, alone, 1e-5, what);
      EXPECT_EQ(result.frozen, alone.frozen) << what;
      if (job.data == 1) expect_all_used(result, what);
    }
  }
}

// It goes on to the last stage all the same.
TEST(MachineTeacher, AStepOfItsStudentsMayEndBeforeTheLastStages) {
  const std::vector<Pass> shallow{subnet({.num_hidden_layers = 4, .intermediate_size = 16}, 1, Teaching::frozen),
                                  subnet(smallest(small_space()), 0.5, Teaching::frozen)};
  const StepResult alone = run_small_job(taught_job(shallow));
  for (const char* schedule : {"1f1b", "gpipe", "zero_bubble"})
    for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{2, 4, 1}}) {
      SmallJob job = taught_job(shallow);
      job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.options.schedule = schedule;
      StepResult result = run_small_job(job), expected = alone;
      drop_zeros(result, expected);
      EXPECT_GT(expected.grads.size(), 10u);
      expect_close(result, expected, 1e-5, fmt::format("{} {}", job.text(), schedule));
    }
}

TEST(MachineTeacher, SchedulesGiveTheSameBits) {
  const auto run = [](const char* schedule, const char* placement) {
    SmallJob job = taught_job(shrinking());
    job.pipeline = 2, job.options.schedule = schedule, job.options.exit_placement = placement;
    return run_small_job(job);
  };
  const StepResult expected = run("1f1b", "before_backward");
  for (const char* schedule : {"1f1b", "gpipe", "zero_bubble"})
    for (const char* placement : {"after_forward", "auto"}) {
      const StepResult other = run(schedule, placement);
      EXPECT_EQ(other.sums, expected.sums) << schedule << placement;
      EXPECT_EQ(other.grads, expected.grads) << schedule << placement;
    }
}

// Of the backbone and the final head alone; of bf16 weights what these are, not their masters.
TEST(MachineTeacher, StaysWhatItWas) {
  for (const DType precision : {DType::f32, DType::bf16})
    for (const int pipeline : {1, 4}) {
      SmallJob job = taught_job(shrinking());
      job.pipeline = pipeline, job.options.precision = precision;
      job.before = [](Machine& machine) { machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline); };
      SmallJob begun = job;
      job.optimizer = OptimizerConfig{};
      job.optimizer->lr = 0.05;
      const StepResult after = run_small_job(job, 3), before = run_small_job(begun);
      std::size_t moved = 0;
      for (const auto& [name, values] : before.weights) {
        moved += after.weights.at(name) == values ? 0 : 1;
        EXPECT_EQ(before.frozen.contains(name), !name.starts_with("exits.")) << name;
        if (!before.frozen.contains(name)) continue;
        EXPECT_EQ(after.frozen.at(name), before.frozen.at(name)) << name;
        for (std::size_t i = 0; i < values.size(); ++i)
          ASSERT_EQ(after.frozen.at(name)[i], precision == DType::f32 ? values[i] : float(bf16(values[i]))) << name;
      }
      EXPECT_EQ(moved, before.weights.size());
      expect_all_used(after, job.text());
    }
}

// A copy of what it has, and nothing else that lasts.
TEST(MachineTeacher, TakesTheBytesOfACopy) {
  SmallJob with = taught_job(shrinking()), without = supernet_job({Pass{}});
  const StepResult taught = run_small_job(with), alone = run_small_job(without);
  std::size_t copied = 0;
  for (const auto& [name, values] : taught.frozen) copied += values.size() * sizeof(float);
  const MemoryPlan &a = taught.peaks.front().first, &b = alone.peaks.front().first;
  EXPECT_EQ(a.parameters, b.parameters + copied);
  EXPECT_EQ(a.gradients, b.gradients);
  EXPECT_EQ(a.optimizer, b.optimizer);
}

TEST(MachineTeacher, WhoIsNotThereDoesNotTeach) {
  SmallJob job = taught_job(shrinking());
  job.before = {};
  EXPECT_THROW(run_small_job(job), Error);
}

}  // namespace
}  // namespace offramp::testing
