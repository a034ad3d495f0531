// offramp eval of a saved once-for-all model: what a subnet says is what its export says as a model of its own, and what the whole says of
// it while it trains.
#include "trainer/eval_command.h"

#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "checkpoint/state.h"
#include "comm/in_process.h"
#include "parallel/placement.h"
#include "tests/trainer/saved_supernet.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/convert_commands.h"
#include "trainer/evaluate_samples.h"
#include "trainer/job.h"

namespace offramp::testing {
namespace {

class EvalCommand : public SavedSupernet {
 protected:
  std::string eval(const std::string& saved, const std::string& subnet, int ranks = 1, bool json = true) const {
    std::string text;
    std::mutex mutex;
    run_in_process(ranks, [&](Group world) {
      Activity activity;
      const EvalArguments arguments{at(saved), at("tokens"), kSamples, subnet, saved == "hf" ? kSequence : 0, json};
      std::string mine = run_eval_command(arguments, world, activity);
      const std::lock_guard lock(mutex);
      if (world.rank() == 0) text = std::move(mine);
    });
    return text;
  }
  nlohmann::json numbers(const std::string& saved, const std::string& subnet, int ranks = 1) const {
    return nlohmann::json::parse(eval(saved, subnet, ranks));
  }

  Error refused(const std::string& saved, const std::string& subnet) const {
    try {
      eval(saved, subnet);
    } catch (const Error& error) {
      return error;
    }
    return Error(Exit::ok, "nothing was thrown");
  }

  // The loss of the subnet's last head, as training the whole would measure it.
  double in_the_whole(const Subnet& subnet) const {
    Config config = config_;
    config.training.global_batch_size = 2;
    MachineOptions options = machine_options(config, {});
    options.space = kSpace, options.evaluated = {subnet};
    double loss = 0;
    run_in_process(1, [&](Group world) {
      const MemoryPlan plan = plan_memory(options, Mesh::planned(0, {}));
      Machine machine(options, Mesh(world, {}), Backing::host, plan.peak);
      Checkpoint checkpoint(at("saved/step-7"));
      CheckpointTensors weights(checkpoint);
      load_weights(machine, weights, "saved");
      const Dataset data({.corpora = {{at("tokens"), 1.0}}, .sequence_length = kSequence, .vocab_size = 50, .shuffle = false});
      Activity activity;
      evaluate_samples(machine, data, kSamples, "a test", activity, subnet);
      const double* sums = machine.sums().as<double>() + last_head(subnet, machine.model()) * kLossSums;
      loss = sums[0] / sums[3];
    });
    return loss;
  }
};

const Subnet kSubnets[] = {
    {.hidden_size = 16},
    {.intermediate_size = 30, .queries_per_group = 2},
    {.num_hidden_layers = 2, .num_key_value_heads = 1},
    {.num_hidden_layers = 1, .hidden_size = 16, .intermediate_size = 20, .num_key_value_heads = 1, .queries_per_group = 1},
    {.num_hidden_layers = 2}};

TEST_F(EvalCommand, ASubnetIsItsExportToTheBit) {
  for (const Subnet& subnet : kSubnets) {
    SCOPED_TRACE(to_text(subnet));
    run_convert_command({ConvertArguments::Verb::export_hf, at("saved"), at("hf"), "fp32", "", to_text(subnet)});
    const nlohmann::json part = numbers("saved", to_text(subnet)), alone = numbers("hf", "");
    for (const char* key : {"final_loss", "final_accuracy", "exit_losses", "exit_accuracies", "tokens"})
      EXPECT_EQ(part[key], alone[key]) << key;
    const auto exits = subnet.num_hidden_layers == 0 ? 2u : static_cast<unsigned>(subnet.num_hidden_layers - 1);
    EXPECT_EQ(part["exit_losses"].size(), exits);
    EXPECT_EQ(part["tokens"], kSamples * kSequence);
    std::filesystem::remove_all(at("hf"));
  }
}

TEST_F(EvalCommand, ASubnetIsWhatTheWholeRunsOfIt) {
  for (const Subnet& subnet : kSubnets) {
    SCOPED_TRACE(to_text(subnet));
    const double whole = in_the_whole(subnet);
    EXPECT_NEAR(numbers("saved", to_text(subnet))["final_loss"].get<double>(), whole, 1e-5 * whole);
  }
}

TEST_F(EvalCommand, RanksShareTheSamples) {
  const nlohmann::json one = numbers("saved", R"({"hidden_size": 16})"), two = numbers("saved", R"({"hidden_size": 16})", 2);
  EXPECT_NEAR(one["final_loss"].get<double>(), two["final_loss"].get<double>(), 1e-12);
  EXPECT_EQ(one["final_accuracy"], two["final_accuracy"]);
  EXPECT_EQ(one["tokens"], two["tokens"]);
}

TEST_F(EvalCommand, PrintsATable) {
  const std::string table = eval("saved", R"({"num_hidden_layers": 2})", 1, false);
  EXPECT_NE(table.find("step-7, subnet {\"num_hidden_layers\":2}\n5 samples of 12 tokens of"), std::string::npos) << table;
  EXPECT_NE(table.find("  exit       1  mlp "), std::string::npos) << table;
  EXPECT_NE(table.find("  final      3  norm"), std::string::npos) << table;  // a block is one more layer
}

TEST_F(EvalCommand, SaysWhichSubnetsThereAre) {
  const Error beyond = refused("saved", R"({"intermediate_size": 35})");
  EXPECT_EQ(beyond.code, Exit::configuration);
  EXPECT_NE(std::string(beyond.what()).find("intermediate_size 35: the choices are 20, 30, 40"), std::string::npos) << beyond.what();
  const Error narrow = refused("plain", R"({"hidden_size": 16})");
  EXPECT_EQ(narrow.code, Exit::configuration);
  EXPECT_NE(std::string(narrow.what()).find("hidden_size 16: the choices are 24"), std::string::npos) << narrow.what();
  const Error shallow = refused("plain", R"({"num_hidden_layers": 4})");
  EXPECT_NE(std::string(shallow.what()).find("num_hidden_layers 4: the choices are 1, 2, 3"), std::string::npos) << shallow.what();
  EXPECT_EQ(refused("plain", R"({"num_hidden_layers": 1})").code, Exit::ok);
}

TEST_F(EvalCommand, RefusesTheSpaceOfAnotherModel) {
  save("other", {.intermediate_size = {20, 80}});
  const Error error = refused("other", R"({"intermediate_size": 20})");
  EXPECT_EQ(error.code, Exit::checkpoint);
  EXPECT_NE(std::string(error.what()).find("ends with intermediate_size 80, but the model has 40"), std::string::npos) << error.what();
}

TEST_F(EvalCommand, LsPrintsTheSpace) {
  const std::string text = run_checkpoint_command({CheckpointArguments::Verb::ls, {at("saved"), at("plain")}});
  EXPECT_NE(text.find("  108 subnets:\n    num_hidden_layers    1, 2, 3\n    hidden_size          16, 24\n"), std::string::npos) << text;
  EXPECT_NE(text.find("queries_per_group    1, 2, 3\n"), std::string::npos) << text;
  // By hand: of the whole 2 x 50 x 24 of the vocabulary, and a norm; of a layer 4 x 24 x (24 + 8) / 2 for attention, 3 x 24 x 40 for the
  // MLP and two norms.
  EXPECT_NE(text.find(fmt::format("largest: {:.3f} million parameters", (2 * 50 * 24 + 24 + 3 * (2 * 24 * 32 + 3 * 24 * 40 + 48)) / 1e6)),
            std::string::npos)
      << text;
  // Heads keep their 4 rows: q and o have 4, k and v too.
  EXPECT_NE(text.find(fmt::format("smallest: {:.3f} million parameters", (2 * 50 * 16 + 16 + 4 * 16 * 4 + 3 * 16 * 20 + 32) / 1e6)),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("subnets", text.find("largest")), std::string::npos) << text;
}

}  // namespace
}  // namespace offramp::testing
