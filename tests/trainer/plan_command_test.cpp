// `offramp plan` as a user calls it: text, JSON, the schedule, and the search.
#include "trainer/plan_command.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tensor/check.h"

namespace offramp {
namespace {

const std::filesystem::path kRoot = std::filesystem::path(OFFRAMP_TESTS).parent_path();

PlanArguments quickstart(std::vector<std::string> sets = {}) {
  return {.config = (kRoot / "configs/quickstart.yaml").string(), .sets = std::move(sets), .ranks = 4, .cluster = ""};
}

TEST(PlanCommand, JsonHasARankEach) {
  PlanArguments arguments = quickstart();
  arguments.json = true;
  const auto json = nlohmann::ordered_json::parse(run_plan_command(arguments));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys,
            (std::vector<std::string>{"step_time_s", "lower_bound_s", "bubble_fraction", "tokens_per_s", "mfu", "supernet", "ranks"}));
  ASSERT_EQ(json["ranks"].size(), 4);
  for (int r = 0; r < 4; ++r) {
    const auto& rank = json["ranks"][static_cast<std::size_t>(r)];
    EXPECT_EQ(rank["rank"], r);
    EXPECT_EQ(rank["in_flight"], r % 2 == 0 ? 2 : 1);
    // Each of the two microbatches' activations [256, 256] f32, to the other stage.
    EXPECT_EQ(rank["sent_bytes"]["pipeline"], 2 * 256 * 256 * 4);
    // All gradients, each rank half of them twice.
    EXPECT_EQ(rank["sent_bytes"]["data"], rank["gradients_bytes"].get<double>());
  }
  EXPECT_GE(json["step_time_s"], json["lower_bound_s"].get<double>());
  EXPECT_NEAR(json["tokens_per_s"].get<double>() * json["step_time_s"].get<double>(), 8 * 128, 1e-6);
}

TEST(PlanCommand, WhoseActivationsTheseAreIsSaid) {
  PlanArguments arguments = quickstart();
  const std::string note = "activations by Megatron's formula";
  EXPECT_EQ(run_plan_command(arguments).find(note), std::string::npos);
  arguments.cluster = (kRoot / "configs/clusters/a100-unfused.yaml").string();
  EXPECT_NE(run_plan_command(arguments).find(note), std::string::npos);
}

TEST(PlanCommand, TheScheduleAloneIsALineARank) {
  PlanArguments arguments = quickstart({"parallel.schedule=gpipe"});
  arguments.dump_schedule = true;
  const Schedule schedule = parse_schedule(run_plan_command(arguments));
  ASSERT_EQ(schedule.size(), 2);
  EXPECT_EQ(to_text(schedule[0]).substr(0, 5), "F0@0 ");
}

std::string refusal(const PlanArguments& arguments) {
  try {
    run_plan_command(arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    return error.what();
  }
  return "accepted";
}

TEST(PlanCommand, AScheduleIsReadBackFromAFile) {
  const std::string path = fmt::format("{}/offramp_schedule_{}.txt", std::filesystem::temp_directory_path().string(), ::getpid());
  const std::string file = "parallel.schedule=file:" + path;
  PlanArguments first = quickstart({"parallel.schedule=auto"}), again = quickstart({file});
  first.dump_schedule = again.dump_schedule = true;
  const std::string dumped = run_plan_command(first);
  std::ofstream(path) << "# what auto finds\n" << dumped;
  EXPECT_EQ(run_plan_command(again), dumped);
  first.dump_schedule = again.dump_schedule = false, first.json = again.json = true;
  auto of_file = nlohmann::json::parse(run_plan_command(again)), of_auto = nlohmann::json::parse(run_plan_command(first));
  EXPECT_LE(of_file["lower_bound_s"], of_auto["lower_bound_s"]);  // auto's knows how many microbatches may be kept
  of_file.erase("lower_bound_s"), of_auto.erase("lower_bound_s");
  EXPECT_EQ(of_file, of_auto);
  EXPECT_EQ(refusal(quickstart({file, "training.global_batch_size=4"})).substr(0, path.size() + 3), path + ":2:");
  again.search = true;
  EXPECT_NE(refusal(again).find("--search tries layouts that this schedule does not fit"), std::string::npos);
  std::ofstream(path) << "F0@0 B0\n";
  EXPECT_EQ(refusal(quickstart({file})).substr(0, path.size() + 5), path + ":1:8:");
  std::filesystem::remove(path);
  EXPECT_NE(refusal(quickstart({file})).find("no such file"), std::string::npos);
  EXPECT_NE(refusal(quickstart({"parallel.schedule=file:/"})).find("is no regular file"), std::string::npos);
}

TEST(PlanCommand, AMemoryLimitIsKeptOrRefusedWithWhatIsNeeded) {
  PlanArguments arguments = quickstart({"parallel.schedule=auto", "parallel.memory_limit=1000"});
  const std::string refused = refusal(arguments), before = "needs at least ";
  EXPECT_TRUE(refused.starts_with("parallel.memory_limit: 1000 bytes, but pipeline rank ")) << refused;
  const long needed = std::atol(refused.c_str() + refused.find(before) + before.size());
  arguments.sets.back() = fmt::format("parallel.memory_limit={}", needed);
  arguments.json = true;
  const auto json = nlohmann::ordered_json::parse(run_plan_command(arguments));
  long peak = 0;
  for (const auto& rank : json["ranks"]) peak = std::max(peak, rank["peak_bytes"].get<long>());
  EXPECT_EQ(peak, needed);
  arguments.json = false, arguments.search = true;
  EXPECT_NE(run_plan_command(arguments).find(" more are refused, the first with: parallel.memory_limit: "), std::string::npos);
}

TEST(PlanCommand, WhatCannotRunIsRefusedAsByTrain) {
  PlanArguments arguments = quickstart();
  arguments.ranks = 3;
  EXPECT_THROW(run_plan_command(arguments), Error);
}

TEST(PlanCommand, StepsFromFeaturesAreOfReplicasWithoutABackbone) {
  PlanArguments frozen = quickstart({"training.freeze=backbone"}),
                cached = quickstart({"training.freeze=backbone", "tuning.feature_cache=x"});
  frozen.json = cached.json = true;
  const auto with = nlohmann::json::parse(run_plan_command(frozen)), without = nlohmann::json::parse(run_plan_command(cached));
  EXPECT_LT(without["step_time_s"], with["step_time_s"]);
  const auto total = [](const nlohmann::json& plan) {
    double flops = 0;
    for (const auto& rank : plan["ranks"]) flops += rank["flops"].get<double>();
    return flops;
  };
  EXPECT_LT(total(without), total(with));
  for (const auto& rank : without["ranks"]) {
    EXPECT_EQ(rank["sent_bytes"]["pipeline"], 0);
    EXPECT_EQ(rank["peak_bytes"], without["ranks"][0]["peak_bytes"]);
  }
  cached.search = true;
  EXPECT_NE(refusal(cached).find("all ranks are replicas, --search has nothing to try"), std::string::npos);
}

PlanArguments supernet(std::vector<std::string> sets = {}) {
  sets.push_back("parallel.pipeline_parallel_size=2"), sets.push_back("training.micro_batch_size=2");
  return {.config = (kRoot / "configs/supernet.yaml").string(), .sets = std::move(sets), .ranks = 2, .cluster = ""};
}

nlohmann::json planned(PlanArguments arguments) {
  arguments.json = true;
  return nlohmann::json::parse(run_plan_command(arguments));
}

TEST(PlanCommand, ASupernetsStepIsTheCostliest) {
  const auto json = planned(supernet()), whole = planned(supernet({"supernet.plan=full"}));
  EXPECT_TRUE(whole["supernet"].is_null());
  const auto& step = json["supernet"];
  ASSERT_EQ(step["passes"].size(), 4);
  EXPECT_EQ(step["first_step"], 243);  // 0.537 of 450 steps are of the whole
  EXPECT_EQ(step["passes"][0]["subnet"], nlohmann::json::object());
  EXPECT_EQ(step["passes"][0]["learns_from"], "labels");
  EXPECT_EQ(step["passes"][3]["subnet"],
            nlohmann::json::parse(R"({"num_hidden_layers":4,"intermediate_size":172,"num_key_value_heads":2})"));
  EXPECT_EQ(step["passes"][3]["learns_from"], "whole");
  double flops = 0;
  for (const auto& pass : step["passes"]) flops += pass["flops"].get<double>();
  EXPECT_DOUBLE_EQ(flops, step["flops"].get<double>());
  EXPECT_EQ(step["whole_alone"]["step_time_s"], whole["step_time_s"]);
  EXPECT_GT(json["step_time_s"].get<double>(), 2 * whole["step_time_s"].get<double>());
  EXPECT_GT(step["flops_of_whole"], step["mean_flops_of_whole"]);
  EXPECT_GT(step["mean_flops_of_whole"], 1);
  EXPECT_NEAR(json["tokens_per_s"].get<double>() * json["step_time_s"].get<double>(), 8 * 128, 1e-6);
}

TEST(PlanCommand, AStepOfShrinkingBeginsWithItsTeacher) {
  const std::string ofa = "supernet={plan: ofa, num_hidden_layers: [4, 6, 8], intermediate_size: [172, 344, 688]}";
  const auto taught = planned(supernet({ofa})), alone = planned(supernet({ofa, "supernet.distillation=false"}));
  const auto& passes = taught["supernet"]["passes"];
  ASSERT_EQ(passes.size(), 4);
  EXPECT_EQ(passes[0]["learns_from"], "nobody");
  EXPECT_LT(passes[0]["flops"].get<double>(), passes[1]["flops"].get<double>() / 2);  // no way back
  for (int p = 1; p < 4; ++p) EXPECT_EQ(passes[p]["learns_from"], "teacher");
  EXPECT_EQ(alone["supernet"]["passes"].size(), 3);
  for (int r = 0; r < 2; ++r)
    EXPECT_GT(taught["ranks"][r]["parameters_bytes"].get<double>(), 1.5 * alone["ranks"][r]["parameters_bytes"].get<double>());
  EXPECT_NE(run_plan_command(supernet({ofa})).find("  T  the teacher, which is the whole after step 242"), std::string::npos);
}

TEST(PlanCommand, APlanWithoutSubnetsYetIsOfTheWhole) {
  EXPECT_TRUE(planned(supernet({"supernet.start=450"}))["supernet"].is_null());  // no later step comes
  EXPECT_EQ(planned(supernet({"supernet.plan=sandwich"}))["supernet"]["first_step"], 1);
}

TEST(PlanCommand, OfDrawnWidthsTheWidestIsPlanned) {
  const auto step = planned(supernet({"supernet.plan=matformer", "supernet.num_key_value_heads=[4]"}))["supernet"];
  ASSERT_EQ(step["passes"].size(), 1);
  EXPECT_DOUBLE_EQ(step["flops_of_whole"].get<double>(), 1);
  EXPECT_LT(step["mean_flops_of_whole"], 1);
}

TEST(PlanCommand, ASupernetsStepIsSaidAndDumped) {
  PlanArguments arguments = supernet();
  const std::string text = run_plan_command(arguments);
  for (const char* part : {"steps differ: this is the costliest, from step 243 on; before, each is one of the whole alone\n",
                           "  W  the whole", "  S  the smallest", "a step of the whole alone takes ", "drawn ones have "})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  arguments.dump_schedule = true;
  EXPECT_NE(run_plan_command(arguments).find("F15@0"), std::string::npos);  // four passes of four microbatches
  arguments.dump_schedule = false, arguments.search = true;
  EXPECT_NE(run_plan_command(arguments).find(", fastest first in the costliest of their steps"), std::string::npos);
}

TEST(PlanCommand, TheSearchNamesTheBestAndWhatEachOtherLoses) {
  PlanArguments arguments = quickstart();
  arguments.search = true;
  const std::string text = run_plan_command(arguments);
  EXPECT_NE(text.find("fastest that fits"), std::string::npos) << text;
  EXPECT_NE(text.find("bubble"), std::string::npos) << text;
}

TEST(PlanCommand, AThousandRanksArePlannedInSeconds) {
  PlanArguments arguments =
      quickstart({"model.num_hidden_layers=128", "model.hidden_size=8192", "model.intermediate_size=28672", "model.num_attention_heads=64",
                  "model.num_key_value_heads=8", "parallel.tensor_parallel_size=8", "parallel.pipeline_parallel_size=32",
                  "training.global_batch_size=2048", "training.micro_batch_size=1"});
  arguments.ranks = 1024;
  const auto begin = std::chrono::steady_clock::now();
  run_plan_command(arguments);
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 10);
}

}  // namespace
}  // namespace offramp
