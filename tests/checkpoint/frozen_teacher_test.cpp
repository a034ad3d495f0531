// A frozen teacher in checkpoints: it is one more kind of state, which every layout reads to the same bits; and what its subnets learn
// is the same whether a run stopped or channels were sorted.
#include "checkpoint/sort_channels.h"
#include "saved_job.h"
#include "tests/files.h"
#include "tests/parallel/supernet_job.h"

namespace offramp::testing {
namespace {

struct Layout {
  int tensor = 1, pipeline = 1, data = 1;
  bool sharded = false, rows_split = false;
};
constexpr Layout kLayouts[] = {{1, 1, 1},       {2, 1, 1}, {4, 1, 1, false, true}, {1, 2, 1},       {1, 1, 2},
                               {1, 1, 4, true}, {1, 4, 1}, {2, 1, 2, true},        {1, 2, 2, true}, {2, 2, 2, true, true}};

std::vector<Pass> passes() {
  return {kTeacherPass, subnet({}, 1, Teaching::frozen), subnet({.intermediate_size = 16}, 0.5, Teaching::frozen),
          subnet({.num_hidden_layers = 5, .hidden_size = 16}, 0.75, Teaching::frozen)};
}

// Exits of every kind, some of which share the final head's tensors.
SmallJob job_of(const Layout& layout, bool tied = false, bool bf16 = false) {
  SmallJob job = small_job(exits_of_every_kind(), tied);
  job.options.space = small_space();
  job.options.step_passes = {{Pass{}}, passes()};
  job.tensor = layout.tensor, job.pipeline = layout.pipeline, job.data = layout.data;
  job.options.sequence_parallel = layout.rows_split, job.options.shard_state = layout.sharded;
  job.options.precision = bf16 ? DType::bf16 : DType::f32;
  job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
  return job;
}

void take(Machine& machine) { machine.teacher()->take(machine.context(), machine.flat(), machine.mesh().pipeline); }

void train_subnets(Machine& machine, const SmallJob& job, int first, int last) {
  machine.set_passes(passes());
  train_steps(machine, job, first, last);
}

class FrozenTeachers : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  SmallJob job(const Layout& layout) const { return job_of(layout, std::get<0>(GetParam()), std::get<1>(GetParam())); }
  Numbers saved(std::int64_t step) const { return numbers_in(step_directory(directory.path(), step)); }
  TemporaryDirectory directory;
};
INSTANTIATE_TEST_SUITE_P(All, FrozenTeachers, ::testing::Combine(::testing::Bool(), ::testing::Bool()), [](const auto& all) {
  return std::string(std::get<0>(all.param) ? "tied" : "untied") + (std::get<1>(all.param) ? "_bf16" : "");
});

// Taken by one layout, saved, read and saved by the next, round the circle.
TEST_P(FrozenTeachers, EveryLayoutReadsTheBitsOfTheOneBefore) {
  on_every_rank(job(kLayouts[0]), [&](Machine& machine, const Group& world) {
    machine.flat().initialize(machine.context(), 7);
    save(machine, world, directory.path(), 1);
    take(machine);
    train_subnets(machine, job(kLayouts[0]), 1, 2);
    save(machine, world, directory.path(), 2);
  });
  const Numbers before = saved(1), expected = saved(2);
  for (const auto& [name, values] : before) {
    if (!name.starts_with("weights/")) continue;
    const std::string tensor = name.substr(8);
    EXPECT_EQ(expected.contains("teacher/" + tensor), !tensor.starts_with("exits.")) << tensor;
    if (!expected.contains("teacher/" + tensor)) continue;
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(expected.at("teacher/" + tensor)[i], std::get<1>(GetParam()) ? float(bf16(values[i])) : values[i]) << tensor;
  }
  std::int64_t step = 2;
  for (const Layout& layout : kLayouts) {
    on_every_rank(job(layout), [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), step));
      save(machine, world, directory.path(), step + 1);
    });
    const Numbers found = saved(++step);
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, values] : expected) EXPECT_EQ(found.at(name), values) << name << " after " << job(layout).text();
  }
}

TEST_P(FrozenTeachers, TrainingGoesOnToTheSameBits) {
  for (const Layout& layout : {Layout{2, 2, 2, true, true}, Layout{1, 4, 1}, Layout{1, 1, 2, true}}) {
    const SmallJob here = job(layout);
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      machine.flat().initialize(machine.context(), 7);
      train_steps(machine, here, 1, 1);
      take(machine);
      train_subnets(machine, here, 2, 3);
      save(machine, world, directory.path(), 3);
      train_subnets(machine, here, 4, 5);
      save(machine, world, directory.path(), 5);
    });
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 3));
      train_subnets(machine, here, 4, 5);
      save(machine, world, directory.path(), 6);
    });
    EXPECT_EQ(saved(6), saved(5)) << here.text();
  }
}

// One that was saved before there was a teacher has none, and reading it gives none.
TEST(FrozenTeacher, IsNotSavedBeforeItIsTaken) {
  TemporaryDirectory directory;
  const SmallJob job = job_of({1, 2, 1});
  on_every_rank(job, [&](Machine& machine, const Group& world) {
    machine.flat().initialize(machine.context(), 7);
    save(machine, world, directory.path(), 1);
    take(machine);
    save(machine, world, directory.path(), 2);
  });
  EXPECT_EQ(Checkpoint(step_directory(directory.path(), 1)).kinds(), (std::vector<std::string>{"weights", "exp_avg", "exp_avg_sq"}));
  EXPECT_EQ(Checkpoint(step_directory(directory.path(), 2)).kinds(),
            (std::vector<std::string>{"weights", "exp_avg", "exp_avg_sq", "teacher"}));
  for (const std::int64_t step : {1, 2})
    on_every_rank(job, [&](Machine& machine, const Group&) {
      restore(machine, step_directory(directory.path(), step));
      EXPECT_EQ(machine.teacher()->taken(), step == 2);
    });
  SmallJob untaught = job;
  untaught.options.step_passes.clear();
  on_every_rank(untaught, [&](Machine& machine, const Group&) { restore(machine, step_directory(directory.path(), 2)); });
}

// It keeps the order that it has, and says of every token what it said.
TEST(FrozenTeacher, SortedChannelsLearnTheSame) {
  for (const int pipeline : {1, 2}) {
    std::vector<double> losses[2];
    for (const bool sorts : {false, true}) {
      SmallJob job = job_of({.pipeline = pipeline});
      job.options.step_passes = {{kTeacherPass, subnet({}, 1, Teaching::frozen)}};
      on_every_rank(job, [&](Machine& machine, const Group& world) {
        machine.flat().initialize(machine.context(), 7);
        take(machine);
        machine.flat().initialize(machine.context(), 8);
        if (sorts) sort_channels(machine);
        machine.set_passes(job.options.step_passes.front());
        train_steps(machine, job, 1, 1);
        if (world.rank() != 0) return;
        for (std::int64_t i = 0; i < machine.sums(1).elements(); i += kLossSums)
          losses[sorts ? 1 : 0].push_back(machine.sums(1).as<double>()[i + 1]);
      });
    }
    ASSERT_EQ(losses[0].size(), 7u);
    for (std::size_t e = 0; e < losses[0].size(); ++e) EXPECT_NEAR(losses[1][e], losses[0][e], 1e-5 * losses[0][e]) << e;
  }
}

}  // namespace
}  // namespace offramp::testing
