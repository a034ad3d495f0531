// Every schedule, placement of exits and kind of recompute gives gpipe's bits, in exactly the memory that was planned.
#include "parallel/actions.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

class MachineSchedules : public ::testing::TestWithParam<std::tuple<const char*, bool, int>> {
 protected:
  SmallJob job() const {
    const auto [architecture, tied, ranks] = GetParam();
    SmallJob job = small_job(exits_of_every_kind(), tied, architecture);
    job.pipeline = ranks;
    job.options.model.attention_dropout = 0.1, job.options.model.hidden_dropout = 0.1;
    job.options.layer_drop = true;
    job.layer_rates = {0, 0.2f, 0, 0.3f, 0, 0.5f, 0, 0.5f};
    job.options.schedule = "gpipe", job.options.exit_placement = "after_forward";
    return job;
  }
};
INSTANTIATE_TEST_SUITE_P(All, MachineSchedules,
                         ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Bool(), ::testing::Values(1, 2, 4)),
                         [](const auto& p) {
                           return fmt::format("{}{}_on_{}", std::get<0>(p.param), std::get<1>(p.param) ? "_tied" : "",
                                              std::get<2>(p.param));
                         });

TEST_P(MachineSchedules, GiveTheBitsOfGpipe) {
  for (const DType precision : {DType::f32, DType::bf16}) {
    SmallJob variant = job();
    variant.options.precision = precision;
    const StepResult expected = run_small_job(variant);
    for (const char* schedule : {"gpipe", "1f1b", "zero_bubble", "auto"})
      for (const char* placement : {"after_forward", "before_backward", "auto"})
        for (const char* recompute : {"none", "selective", "full"}) {
          const bool skipped = precision == DType::bf16 && (placement != std::string("auto") || schedule == std::string("gpipe"));
          if (skipped) continue;  // bf16 differs in nothing that placements touch
          variant.options.schedule = schedule, variant.options.exit_placement = placement, variant.options.recompute = recompute;
          const std::string text = fmt::format("{} {} {} {}", variant.text(), schedule, placement, recompute);
          const StepResult result = run_small_job(variant);
          EXPECT_EQ(result.sums, expected.sums) << text;
          EXPECT_EQ(result.grads, expected.grads) << text;
          expect_all_used(result, text);
        }
  }
}

// Heads split by vocabulary over the pipeline: the bits of gpipe with heads split, the numbers of whole heads. (In bf16 what comes of the
// vocabulary's parts is rounded before it is summed: there the losses alone are compared.)
TEST_P(MachineSchedules, GiveTheBitsOfGpipeWithHeadsSplit) {
  if (job().pipeline == 1) return;  // nothing is split
  for (const DType precision : {DType::f32, DType::bf16}) {
    SmallJob variant = job();
    variant.options.precision = precision, variant.evaluates = true;
    const StepResult whole = run_small_job(variant);
    variant.options.split_heads = true;
    const StepResult expected = run_small_job(variant);
    const double tolerance = precision == DType::f32 ? 1e-5 : 0x1p-8;
    expect_close(expected.sums, whole.sums, tolerance, variant.text());
    expect_close(expected.evaluated, whole.evaluated, tolerance, variant.text() + ", evaluated");
    if (precision == DType::f32) expect_close(expected, whole, tolerance, variant.text());
    for (const auto& [schedule, recompute] : {std::pair{"1f1b", "none"}, {"zero_bubble", "full"}, {"auto", "selective"}}) {
      variant.options.schedule = schedule, variant.options.recompute = recompute;
      const std::string text = fmt::format("{} {} {} heads split", variant.text(), schedule, recompute);
      const StepResult result = run_small_job(variant);
      EXPECT_EQ(result.sums, expected.sums) << text;
      EXPECT_EQ(result.grads, expected.grads) << text;
      expect_squares(result, text);
      expect_all_used(result, text);
    }
  }
}

// Several stages a rank: the bits of as many stages on a rank each.
TEST_P(MachineSchedules, GiveTheSameBitsOnFewerRanks) {
  const int ranks = job().pipeline;
  if (ranks == 1) return;  // neighbouring stages need different ranks
  for (const DType precision : {DType::f32, DType::bf16}) {
    SmallJob variant = job();
    variant.options.precision = precision, variant.evaluates = true;
    variant.pipeline = 2 * ranks;
    const StepResult expected = run_small_job(variant);
    variant.pipeline = ranks, variant.options.virtual_stages = 2;
    for (const char* schedule : {"gpipe", "interleaved", "auto"})
      for (const char* recompute : {"none", "full"})
        for (const char* placement : {"after_forward", "auto"}) {
          if (precision == DType::bf16 && (recompute != std::string("none") || placement != std::string("auto"))) continue;
          variant.options.schedule = schedule, variant.options.recompute = recompute, variant.options.exit_placement = placement;
          const std::string text = fmt::format("{} {} {} {} two stages a rank", variant.text(), schedule, recompute, placement);
          const StepResult result = run_small_job(variant);
          EXPECT_EQ(result.sums, expected.sums) << text;
          EXPECT_EQ(result.evaluated, expected.evaluated) << text;
          EXPECT_EQ(result.grads, expected.grads) << text;
          expect_squares(result, text);
          expect_all_used(result, text);
        }
  }
}

// What `plan --dump-schedule` prints, all of it or what computes alone.
ScheduleFile dumped(const SmallJob& job, bool whole) {
  MachineOptions options = job.options;
  options.microbatches = job.global_batch;
  std::string text;
  for (int rank = 0; rank < job.pipeline; ++rank) {
    const Machine machine(options, Mesh::planned(rank, job.degrees()), Backing::none, kUnlimited);
    for (const Action& action : machine.program())
      if (whole || !(is_message(action.op) || action.op == Op::ReduceTied)) text += to_text(action) + " ";
    text += "\n";
  }
  return parse_schedule_file("dumped", text);
}

TEST_P(MachineSchedules, ReadBackGiveTheBitsOfGpipe) {
  const StepResult expected = run_small_job(job());
  for (const char* schedule : {"1f1b", "zero_bubble", "auto"})
    for (const bool whole : {false, true}) {
      SmallJob variant = job();
      variant.options.schedule = schedule, variant.options.recompute = whole ? "none" : "full";
      variant.options.schedule_file = std::make_shared<const ScheduleFile>(dumped(variant, whole));
      variant.options.schedule = "file:dumped";
      const std::string text = fmt::format("{} {} whole {}", variant.text(), schedule, whole);
      const StepResult result = run_small_job(variant);
      EXPECT_EQ(result.sums, expected.sums) << text;
      EXPECT_EQ(result.grads, expected.grads) << text;
      expect_all_used(result, text);
    }
}

// With tensor parallelism and data ranks beside, buckets under way while weight gradients wait.
TEST(MachineSchedulesInAllDirections, GiveTheBitsOfGpipe) {
  SmallJob job = small_job(exits_of_every_kind(), true);
  job.pipeline = 2, job.tensor = 2, job.data = 2;
  for (const auto& [rows, heads] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    job.options.sequence_parallel = rows, job.options.shard_state = rows, job.options.split_heads = heads;
    job.options.schedule = "gpipe", job.options.recompute = "none";
    const StepResult expected = run_small_job(job);
    for (const char* schedule : {"zero_bubble", "auto"}) {
      job.options.schedule = schedule, job.options.recompute = rows ? "full" : "none";
      const StepResult result = run_small_job(job);
      EXPECT_EQ(result.sums, expected.sums) << schedule;
      EXPECT_EQ(result.grads, expected.grads) << schedule;
      expect_all_used(result, schedule);
    }
  }
}

// Updates too: what tied tensors' ranks get back.
TEST(MachineSchedulesInAllDirections, TrainAlikeWithSeveralStagesARank) {
  for (const auto& [rows, heads] : {std::pair{false, false}, {true, false}, {true, true}}) {
    SmallJob job = small_job(exits_of_every_kind(), true);
    job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
    job.tensor = 2, job.data = 2, job.pipeline = heads ? 2 : 4;
    job.options.sequence_parallel = rows, job.options.shard_state = rows, job.options.split_heads = heads;
    const StepResult expected = run_small_job(job, 3);
    job.pipeline = 2, job.options.virtual_stages = 2;
    for (const char* schedule : {"interleaved", "auto"}) {
      job.options.schedule = schedule;
      const StepResult result = run_small_job(job, 3);
      if (heads) {  // the same parts of heads, but more stages
        expect_close(result, expected, 1e-5, schedule);
        continue;
      }
      EXPECT_EQ(result.sums, expected.sums) << schedule;
      EXPECT_EQ(result.grads, expected.grads) << schedule;
      EXPECT_EQ(result.weights, expected.weights) << schedule;
    }
  }
}

TEST(Recompute, CountsNoWorkTwice) {
  const auto flops = [](const char* recompute) {
    SmallJob job = small_job(exits_of_every_kind(), false);
    job.options.recompute = recompute;
    return Machine(job.options, Mesh::planned(0, {}), Backing::none, kUnlimited).flops();
  };
  EXPECT_EQ(flops("selective"), flops("none"));
  EXPECT_EQ(flops("full"), flops("none"));
}

// What it is for: fewer bytes kept.
TEST(Recompute, KeepsLess) {
  const auto activations = [](const char* recompute) {
    SmallJob job = small_job({}, false);
    job.options.recompute = recompute, job.options.microbatches = 8;
    return plan_memory(job.options, Mesh::planned(0, {1, 4, 1})).activations;
  };
  EXPECT_LT(activations("selective"), activations("none"));
  EXPECT_LT(activations("full"), activations("selective"));
}

}  // namespace
}  // namespace offramp::testing
