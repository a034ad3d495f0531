// Whatever layout wrote a checkpoint, every layout reads it to the same bits, weights and optimizer state, and the next one too.
#include "saved_job.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

struct Layout {
  int tensor, pipeline, data;
  bool rows_split = false, sharded = false, heads_split = false;
  int stages = 1;  // a rank
};
constexpr Layout kLayouts[] = {{1, 1, 1},
                               {2, 1, 1},
                               {4, 1, 1, true},
                               {1, 2, 1},
                               {1, 1, 2},
                               {1, 1, 4, false, true},
                               {1, 4, 1},
                               {2, 2, 1, true},
                               {2, 1, 2, false, true},
                               {1, 2, 2, false, true},
                               {2, 2, 2, true, true},
                               {4, 2, 1},
                               {1, 4, 1, false, false, true},
                               {2, 2, 2, true, true, true},
                               {1, 2, 1, false, false, false, 4},
                               {2, 2, 2, true, true, true, 2}};

SmallJob job_of(const std::string& architecture, bool tied, const Layout& layout, bool bf16) {
  SmallJob job = small_job(exits_of_every_kind(), tied, architecture);
  job.tensor = layout.tensor, job.pipeline = layout.pipeline, job.data = layout.data;
  job.options.sequence_parallel = layout.rows_split;
  job.options.shard_state = layout.sharded;
  job.options.split_heads = layout.heads_split;
  job.options.virtual_stages = layout.stages;
  if (layout.stages > 1) job.options.schedule = "interleaved";
  job.options.precision = bf16 ? DType::bf16 : DType::f32;
  job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
  return job;
}

class Resharding : public ::testing::TestWithParam<std::tuple<const char*, bool, bool>> {
 protected:
  SmallJob job(const Layout& layout) const {
    const auto& [architecture, tied, bf16] = GetParam();
    return job_of(architecture, tied, layout, bf16);
  }
  TemporaryDirectory directory;
};
INSTANTIATE_TEST_SUITE_P(All, Resharding, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Bool(), ::testing::Bool()),
                         [](const auto& all) {
                           return std::string(std::get<0>(all.param)) + (std::get<1>(all.param) ? "_tied" : "") +
                                  (std::get<2>(all.param) ? "_bf16" : "");
                         });

// Saved by one layout, read and saved by the next, round the circle.
TEST_P(Resharding, EveryLayoutReadsTheBitsOfTheOneBefore) {
  on_every_rank(job(kLayouts[0]), [&](Machine& machine, const Group& world) {
    machine.flat().initialize(machine.context(), 7);
    train_steps(machine, job(kLayouts[0]), 1, 2);
    save(machine, world, directory.path(), 0);
  });
  const Numbers expected = numbers_in(step_directory(directory.path(), 0));
  EXPECT_EQ(expected.size() % 3, 0u);  // weights and two moments
  std::int64_t step = 0;
  for (const Layout& layout : kLayouts) {
    on_every_rank(job(layout), [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), step));
      save(machine, world, directory.path(), step + 1);
    });
    const Numbers found = numbers_in(step_directory(directory.path(), ++step));
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, values] : expected) EXPECT_EQ(found.at(name), values) << name << " after " << job(layout).text();
  }
}

// What is not in the checkpoint, the weights of guests and other shards, is what training would have had.
TEST_P(Resharding, TrainingGoesOnToTheSameBits) {
  for (const Layout& layout : {Layout{2, 2, 2, true, true}, Layout{1, 2, 2}, Layout{2, 1, 1}, Layout{1, 2, 2, false, true, true},
                              Layout{1, 2, 2, false, true, false, 2}}) {
    const SmallJob here = job(layout);
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      machine.flat().initialize(machine.context(), 7);
      train_steps(machine, here, 1, 2);
      save(machine, world, directory.path(), 2);
      train_steps(machine, here, 3, 5);
      save(machine, world, directory.path(), 5);
    });
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 2));
      train_steps(machine, here, 3, 5);
      save(machine, world, directory.path(), 6);
    });
    EXPECT_EQ(numbers_in(step_directory(directory.path(), 6)), numbers_in(step_directory(directory.path(), 5))) << here.text();
  }
}

TEST(State, OtherModelsAreRefusedByName) {
  TemporaryDirectory directory;
  SmallJob job = small_job(exits_of_every_kind(), false);
  on_every_rank(job, [&](Machine& machine, const Group& world) {
    machine.flat().initialize(machine.context(), 7);
    save(machine, world, directory.path(), 1);
  });
  const auto refusal = [&](const SmallJob& other, const std::vector<std::string>& kept) {
    std::string text;
    on_every_rank(other, [&](Machine& machine, const Group&) {
      Checkpoint checkpoint(step_directory(directory.path(), 1));
      try {
        CheckpointTensors weights(checkpoint);
        load_weights(machine, weights, "it", kept);
      } catch (const Error& e) {
        EXPECT_EQ(e.code, Exit::checkpoint);
        text = e.what();
      }
    });
    return text;
  };
  SmallJob wider = job;
  wider.options.model.intermediate_size = 64;
  EXPECT_NE(refusal(wider, {}).find("is [48, 32], the model's is [64, 32]"), std::string::npos) << refusal(wider, {});
  SmallJob more = job;
  more.options.exits.push_back({.layer = 7, .head = HeadKind::norm, .loss_weight = 0.1});
  EXPECT_NE(refusal(more, {}).find("has no tensor exits.7."), std::string::npos) << refusal(more, {});
  EXPECT_NE(refusal(more, {}).find("'exits."), std::string::npos) << refusal(more, {});
  EXPECT_EQ(refusal(more, {"exits.7."}), "");
}

}  // namespace
}  // namespace offramp::testing
