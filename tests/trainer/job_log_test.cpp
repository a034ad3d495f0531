#include "trainer/job_log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/files.h"

namespace offramp {
namespace {

Config small_job(const std::string& directory) {
  Config config;
  config.model.num_hidden_layers = 8;
  config.exits = {{.layer = 2}, {.layer = 5, .head = HeadKind::mlp}};
  config.training.steps = 11;
  config.logging = {.directory = directory, .interval = 4, .tensorboard = false};
  return config;
}

TEST(JobLog, WritesEveryIntervalAndTheLastStep) {
  TemporaryDirectory directory;
  testing::internal::CaptureStdout();
  JobLog log(small_job(directory.path()), {.pipeline = 2, .data = 2});
  log.begin({});
  for (std::int64_t step = 1; step <= 11; ++step) log.step({.step = step, .loss = 1});
  log.validation({.step = 11,
                  .set = "docs",
                  .loss = 1.5,
                  .final_loss = 1,
                  .final_accuracy = 0.5,
                  .exit_losses = {{2, 3}, {5, 2}},
                  .exit_accuracies = {{2, 0.125}, {5, 0.25}}});
  log.finish();
  const std::string shown = testing::internal::GetCapturedStdout();

  std::istringstream text(read_bytes(directory / "metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["step"], 4);
  EXPECT_EQ(lines[1]["step"], 8);
  EXPECT_EQ(lines[2]["step"], 11);
  EXPECT_EQ(lines[3]["split"], "validation");
  EXPECT_EQ(lines[3]["exit_losses"], nlohmann::json::parse(R"({"2":3.0,"5":2.0})"));
  EXPECT_EQ(lines[3]["final_loss"], 1.0);
  EXPECT_EQ(lines[3]["final_accuracy"], 0.5);
  EXPECT_NE(shown.find("4 ranks: 2 replicas of 2 pipeline stages"), std::string::npos) << shown;
  EXPECT_NE(shown.find("exit       5  mlp   2.0000        7.39    25.00%"), std::string::npos) << shown;
  EXPECT_NE(shown.find("final      8  norm  1.0000        2.72    50.00%"), std::string::npos) << shown;
}

}  // namespace
}  // namespace offramp
