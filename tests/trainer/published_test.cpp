// What `offramp plan` says of jobs that others ran, against what they measured. docs/planning.md has the numbers.
#include "tests/trainer/published.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "trainer/cluster_file.h"
#include "trainer/plan_command.h"
#include "trainer/yaml.h"

namespace offramp::testing {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(OFFRAMP_TESTS).parent_path() / "configs";

// The bounds are what the preset reaches, with less than half a percent to spare: published times have three digits.
TEST(Published, MegatronsTimesAndActivations) {
  const Cluster cluster = read_cluster((kConfigs / "clusters/a100-unfused.yaml").string());
  double errors = 0;
  int times = 0;
  for (const PublishedRow& row : published_rows()) {
    const std::string what = fmt::format("{}, recompute {}", row.model.name, row.recompute);
    const Predicted plan = predict(row, cluster);
    if (row.gib > 0) {
      EXPECT_NEAR(error_of(plan.gib, row.gib), 0, 0.005) << what;
    }
    if (row.seconds == 0) continue;
    EXPECT_NEAR(error_of(plan.seconds, row.seconds), 0, 0.035) << what;
    errors += std::abs(error_of(plan.seconds, row.seconds)), ++times;
  }
  EXPECT_LT(errors / times, 0.02);
}

// EE-LLM (arXiv 2312.04916) trained these on A100s of 80 GB.
TEST(Published, EeLlmsModelsFitTheirMachines) {
  const Cluster cluster = read_cluster((kConfigs / "clusters/a100.yaml").string());
  for (const auto& [size, ranks] : {std::pair{"1.3b", 16}, {"7b", 16}, {"13b", 32}, {"30b", 64}}) {
    const Config config = read_config((kConfigs / fmt::format("ee-llm-{}.yaml", size)).string(), {});
    const PlannedJob job = planned_job(config, ranks);
    EXPECT_EQ(job.degrees.pipeline * job.degrees.data * job.degrees.tensor, ranks);
    const StepPlan plan = plan_step(job, cluster);
    for (const RankPlan& rank : plan.ranks) {
      const auto bytes = static_cast<double>(rank.memory.peak + rank.memory.messages);
      EXPECT_LT(bytes, cluster.memory) << size << ", stage " << rank.pipeline;
    }
    // All of it is arithmetic that a rank's peak bounds, and no rank is idle for most of the step.
    const double fastest = plan.model_flops / (cluster.bf16_flops * ranks);
    EXPECT_TRUE(1.3 * fastest < plan.step_s && plan.step_s < 2.5 * fastest) << size << ": " << plan.step_s << " s, peak " << fastest;
  }
}

}  // namespace
}  // namespace offramp::testing
