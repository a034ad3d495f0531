// Steps of several passes: what they add up to, and that no layout or schedule changes it.
#include "tests/parallel/supernet_job.h"

namespace offramp::testing {
namespace {

const Pass kWhole{};
std::vector<Pass> sandwich(Teaching teaching) {
  std::vector<Pass> passes{kWhole};
  for (const Pass& pass : small_subnets(teaching)) passes.push_back(pass);
  return passes;
}

// Each alone: beside a whole that weighs nothing, and only teaches.
ByName sum_of_passes_alone(Teaching teaching, bool tied) {
  ByName sum;
  add(sum, run_small_job(supernet_job({kWhole}, tied)).grads);
  for (const Pass& pass : small_subnets(teaching)) {
    Pass unweighted = kWhole;
    unweighted.weight = 0;
    add(sum, run_small_job(supernet_job({unweighted, pass}, tied)).grads);
  }
  return sum;
}

TEST(MachinePasses, GradientsAreTheSumOfEachPassAlone) {
  for (const Teaching teaching : {Teaching::labels, Teaching::whole})
    for (const bool tied : {false, true})
      expect_close(run_small_job(supernet_job(sandwich(teaching), tied)).grads, sum_of_passes_alone(teaching, tied), 1e-5,
                   fmt::format("teaching {}{}", static_cast<int>(teaching), tied ? " tied" : ""));
}

struct Case {
  Degrees degrees;
  bool rows = false;
  std::string schedule = "1f1b", placement = "auto", in_flight = "1f1b";
};

TEST(MachinePasses, NoLayoutOrScheduleChangesThem) {
  const std::vector<Case> cases = {{{1, 2, 1}},
                                   {{2, 1, 1}},
                                   {{2, 2, 1}, true},
                                   {{1, 1, 2}},
                                   {{1, 4, 1}, false, "1f1b", "before_backward"},
                                   {{1, 4, 1}, false, "1f1b", "after_forward"},
                                   {{1, 4, 1}, false, "1f1b", "auto", "1f1b+1"},
                                   {{1, 2, 1}, false, "gpipe"},
                                   {{1, 2, 1}, false, "zero_bubble"},
                                   {{1, 2, 1}, false, "auto"},
                                   {{2, 2, 2}, true}};
  for (const Teaching teaching : {Teaching::labels, Teaching::whole}) {
    const StepResult alone = run_small_job(supernet_job(sandwich(teaching)));
    for (const Case& c : cases) {
      SmallJob job = supernet_job(sandwich(teaching));
      job.tensor = c.degrees.tensor, job.pipeline = c.degrees.pipeline, job.data = c.degrees.data;
      job.options.sequence_parallel = c.rows, job.options.shard_state = c.rows && job.data > 1;
      job.options.schedule = c.schedule, job.options.exit_placement = c.placement, job.options.in_flight = c.in_flight;
      const std::string what = fmt::format("{} {} {} teaching {}", job.text(), c.schedule, c.placement, static_cast<int>(teaching));
      expect_close(run_small_job(job), alone, 1e-5, what);
    }
  }
}

TEST(MachinePasses, ATemperatureIsTheSameOnEveryLayout) {
  const auto run = [](int tensor, int pipeline, bool rows, double temperature) {
    SmallJob job = supernet_job(sandwich(Teaching::whole));
    job.tensor = tensor, job.pipeline = pipeline, job.options.sequence_parallel = rows, job.options.temperature = temperature;
    const StepResult result = run_small_job(job);
    expect_all_used(result, job.text());
    return result;
  };
  const StepResult alone = run(1, 1, false, 2.5);
  EXPECT_NE(alone.grads, run(1, 1, false, 1).grads);
  expect_close(run(2, 1, false, 2.5), alone, 1e-5, "tensor 2");
  expect_close(run(2, 2, true, 2.5), alone, 1e-5, "tensor 2, rows split, pipeline 2");
}

TEST(MachinePasses, SchedulesGiveTheSameBits) {
  const auto run = [](int pipeline, const char* schedule, const char* placement, const char* in_flight = "1f1b") {
    SmallJob job = supernet_job(sandwich(Teaching::whole));
    job.pipeline = pipeline, job.options.in_flight = in_flight;
    job.options.schedule = schedule, job.options.exit_placement = placement;
    return run_small_job(job);
  };
  for (const int pipeline : {2, 4}) {
    const StepResult expected = run(pipeline, "gpipe", "before_backward");
    const auto expect_same = [&](const StepResult& other, const char* what) {
      EXPECT_EQ(other.sums, expected.sums) << what << " pipeline " << pipeline;
      EXPECT_EQ(other.grads, expected.grads) << what << " pipeline " << pipeline;
    };
    for (const char* placement : {"after_forward", "before_backward", "auto"}) {
      for (const char* schedule : {"1f1b", "gpipe", "zero_bubble", "auto"}) expect_same(run(pipeline, schedule, placement), schedule);
      for (const char* in_flight : {"1f1b+1", "1f1b+3"}) expect_same(run(pipeline, "1f1b", placement, in_flight), in_flight);
    }
  }
}

TEST(MachinePasses, OfNoWeightLeaveTheBitsOfTheWhole) {
  for (const int pipeline : {1, 2}) {
    std::vector<Pass> passes = sandwich(Teaching::whole);
    for (Pass& pass : passes) pass.weight = pass.subnet == Subnet{} ? 1 : 0;
    SmallJob job = supernet_job(passes), whole = supernet_job({kWhole});
    job.pipeline = whole.pipeline = pipeline;
    const StepResult with = run_small_job(job), without = run_small_job(whole);
    EXPECT_EQ(with.grads, without.grads);
  }
}

// Stages behind it have no gradient of their own; they take part in sums all the same.
TEST(MachinePasses, AStepMayEndBeforeTheLastStages) {
  for (const bool tied : {false, true}) {
    const std::vector<Pass> shallow{subnet({.num_hidden_layers = 2, .intermediate_size = 16}, 1, Teaching::labels)};
    const StepResult alone = run_small_job(supernet_job(shallow, tied));
    for (const char* schedule : {"1f1b", "gpipe", "zero_bubble"})
      for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{2, 2, 2}, Degrees{1, 4, 2}}) {
        SmallJob job = supernet_job(shallow, tied);
        job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
        job.options.sequence_parallel = job.tensor > 1, job.options.shard_state = job.data > 1, job.options.schedule = schedule;
        StepResult result = run_small_job(job), expected = alone;
        drop_zeros(result, expected);
        EXPECT_GT(expected.grads.size(), 10u);
        expect_close(result, expected, 1e-5, fmt::format("{} {}", job.text(), schedule));
      }
  }
}

TEST(MachinePasses, MemoryIsWhatWasPlanned) {
  for (const int pipeline : {1, 2, 4})
    for (const char* in_flight : {"1f1b", "1f1b+1"}) {
      SmallJob job = supernet_job(sandwich(Teaching::whole));
      job.pipeline = pipeline, job.options.in_flight = in_flight;
      expect_all_used(run_small_job(job), fmt::format("pipeline {} in flight {}", pipeline, in_flight));
    }
}

}  // namespace
}  // namespace offramp::testing
