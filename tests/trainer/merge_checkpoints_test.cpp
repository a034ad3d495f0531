// Exits that were tuned apart become one checkpoint where one job could have tuned them, and nowhere else.
#include "trainer/merge_checkpoints.h"

#include "checkpoint/publish.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"
#include "trainer/resume.h"

namespace offramp {
namespace {

using Change = std::function<void(Config&, Manifest&)>;
using Tensors = std::vector<std::string>;

const std::string kMoment = "exp_avg";

class MergeCheckpoints : public ::testing::Test {
 protected:
  // What a job leaves that has tuned a norm's exit at each of these layers: their norms and moments, each full of its layer.
  std::string tuned(const std::string& name, const std::vector<int>& layers, const Change& change = {}, const Tensors& more = {},
                    bool moments = true) const {
    Config config;
    config.model = testing::small_model();
    config.model_from = "base";
    for (const int layer : layers) config.exits.push_back({.layer = layer, .shared_output = true});
    config.training.freeze = "backbone";
    config.data.train = {{"text", 1}, {"code", 2}};
    Manifest head{.run_id = name, .step = 7, .samples = 56, .updates = 7};
    head.layout = {{"tensor", 1}, {"pipeline", 2}};
    head.data = {{"train.0.idx", "1"}, {"train.1.idx", "2"}};
    head.base = {{"directory", "/base"}, {"identity", "original"}};
    if (change) change(config, head);
    head.configuration = remembered(config);
    std::vector<TensorOfKind> tensors;
    for (const std::string& kind : {kWeights, kMoment}) {
      if (kind == kMoment && !moments) continue;
      for (const int layer : layers) tensors.push_back({kind, fmt::format("exits.{}.norm.weight", layer), {24}});
      for (const std::string& tensor : more) tensors.push_back({kind, tensor, {24}});
    }
    const auto read = [](const TensorOfKind& t, const Box& box, float* out) { std::fill_n(out, box.elements(), value(t.kind, t.tensor)); };
    write_checkpoint(path(name), head, tensors, read);
    return path(name);
  }
  static float value(const std::string& kind, const std::string& tensor) {
    return static_cast<float>(tensor[6] - '0') + (kind == kWeights ? 0.0f : 0.5f);
  }
  std::string path(const std::string& name) const { return directory_ / name; }

  // What is said of an exit at layer 2 that was tuned so, beside one at layer 1 that was not.
  std::string refused(const Change& change, const Tensors& more = {}, bool moments = true) const {
    return checkpoint_error([&] { merge_checkpoints({tuned("a", {1}), tuned("b", {2}, change, more, moments)}, path("merged")); });
  }
  std::string merged(const Change& change) const { return merge_checkpoints({tuned("a", {1}), tuned("b", {2}, change)}, path("merged")); }

  TemporaryDirectory directory_;
};

TEST_F(MergeCheckpoints, AllExitsAreInOne) {
  const std::string two = path("two"), three = path("three"), again = path("again");
  tuned("a", {1}), tuned("b", {2}), tuned("c", {3});
  EXPECT_EQ(merge_checkpoints({path("b"), path("a")}, two), two + "/step-7: the exits of layers 1, 2, of 2 checkpoints\n");
  merge_checkpoints({path("c"), path("a"), path("b")}, three);
  merge_checkpoints({two + "/step-7", path("c")}, again);
  Manifest together = Checkpoint(tuned("abc", {1, 2, 3}) + "/step-7").manifest();
  for (const std::string& directory : {three, again}) {
    Checkpoint checkpoint(directory + "/step-7");
    checkpoint.verify();
    EXPECT_EQ(checkpoint.manifest().configuration, together.configuration);
    EXPECT_EQ(checkpoint.manifest().base, together.base);
    EXPECT_EQ(checkpoint.manifest().data, together.data);
    EXPECT_EQ(checkpoint.manifest().samples, 56);
    for (const std::string& kind : {kWeights, kMoment}) {
      ASSERT_EQ(checkpoint.entries(kind).size(), 3u);
      for (const TensorEntry& entry : checkpoint.entries(kind)) {
        std::vector<float> is(24);
        checkpoint.read(kind, entry.name, {0, 1, 0, 24}, is.data());
        EXPECT_EQ(is, std::vector<float>(24, value(kind, entry.name))) << kind << " " << entry.name;
      }
    }
  }
}

TEST_F(MergeCheckpoints, WhatNoExitFollowsFromMayDiffer) {
  const auto elsewhere = [](Config& config, Manifest& head) {
    config.model_from = "there", head.base["directory"] = "/there";
    config.data.train[0].path = "moved/text", config.data.validation = {{"some", 1}};
    config.exits[0].lr_scale = 2, config.exits[0].loss_weight = 3;
    config.training.validation_interval = 5, config.training.stop_at = 7, config.training.timeout_s = 5;
    config.tuning = {"features", "fp32"};
    config.checkpoint.directory = config.logging.directory = config.export_hf = "there";
  };
  EXPECT_EQ(merged(elsewhere), path("merged") + "/step-7: the exits of layers 1, 2, of 2 checkpoints\n");
  const Manifest manifest = Checkpoint(path("merged") + "/step-7").manifest();
  EXPECT_EQ(manifest.configuration.at("exits.2.lr_scale"), "2.0");
  EXPECT_EQ(manifest.configuration.at("exits.1.lr_scale"), "1.0");
}

TEST_F(MergeCheckpoints, OtherLastBitsAreTold) {
  const std::string said = merged([](Config& config, Manifest& head) {
    config.parallel.shard_heads_over_pipeline = true;
    head.layout["tensor"] = 2;
  });
  EXPECT_NE(said.find("last bits may differ"), std::string::npos) << said;
  EXPECT_NE(said.find("parallel.shard_heads_over_pipeline is true, not false; tensor is 2, not 1"), std::string::npos) << said;
}

TEST_F(MergeCheckpoints, OtherNumbersAreRefused) {
  const std::vector<std::pair<Change, std::string>> all = {
      {[](Config& config, Manifest&) { config.training.seed = 2; }, "training.seed is 2, not 1234"},
      {[](Config& config, Manifest&) { config.training.sequence_length = 8; }, "training.sequence_length is 8, not 0"},
      {[](Config& config, Manifest&) { config.training.global_batch_size = 8; }, "training.global_batch_size is 8, not 0"},
      {[](Config& config, Manifest&) { config.training.micro_batch_size = 8; }, "training.micro_batch_size is 8, not 0"},
      {[](Config& config, Manifest&) { config.training.steps = 8; }, "training.steps is 8, not 0"},
      {[](Config& config, Manifest&) { config.training.precision = "bf16"; }, "training.precision is bf16, not fp32"},
      {[](Config& config, Manifest&) {
         config.tuning = {"features", "bf16"};
       },
       "tuning.feature_dtype is bf16, not fp32"},
      {[](Config& config, Manifest&) { config.optimizer.lr = 0.5; }, "optimizer.lr is 0.5, not"},
      {[](Config& config, Manifest&) { config.optimizer.clip_grad_norm = 0.5; }, "optimizer.clip_grad_norm is 0.5, not"},
      {[](Config& config, Manifest&) { config.optimizer.lr_schedule.name = "wsd"; }, "optimizer.lr_schedule.name is wsd, not constant"},
      {[](Config& config, Manifest&) { config.exit_loss.warmup_steps = 3; }, "exit_loss.warmup_steps is 3, not 0"},
      {[](Config& config, Manifest&) { config.data.train[1].weight = 3; }, "data.train's weights is [1, 3], not [1, 2]"},
      {[](Config& config, Manifest&) { config.data.loss_mask = "mask"; }, "data.loss_mask is mask, not null"},
      {[](Config& config, Manifest&) { config.model.hidden_dropout = 0.5; }, "model.hidden_dropout is 0.5, not 0.0"},
  };
  for (const auto& [change, what] : all) {
    const std::string said = refused(change);
    EXPECT_NE(said.find(path("b") + "/step-7: was tuned otherwise than " + path("a")), std::string::npos) << said;
    EXPECT_NE(said.find(what), std::string::npos) << said << "\n" << what;
    EXPECT_NE(said.find("; tune all exits alike"), std::string::npos) << said;
  }
  EXPECT_FALSE(std::filesystem::exists(path("merged")));
}

TEST_F(MergeCheckpoints, OtherTensorsAreRefused) {
  for (const std::string& said : {refused([](Config&config, Manifest&) { config.training.freeze = "none"; }),
                                  refused({}, {"exits.3.norm.weight"}), refused({}, {"model.norm.weight"})})
    EXPECT_NE(said.find("has trainable shared tensors ("), std::string::npos) << said;
  EXPECT_NE(refused({}, {"model.norm.weight"}).find("(model.norm.weight is one)"), std::string::npos);
  EXPECT_NE(refused({}, {}, false).find("holds weights, " + path("a") + "/step-7 holds weights, exp_avg; merge what was trained"),
            std::string::npos);
  const std::string twice = checkpoint_error([&] { merge_checkpoints({tuned("a", {1, 2}), tuned("b", {2, 3})}, path("merged")); });
  EXPECT_NE(twice.find("has an exit at layer 2, as " + path("a")), std::string::npos) << twice;
}

TEST_F(MergeCheckpoints, OtherOriginsAreRefused) {
  for (const Change& change : {Change([](Config&, Manifest& head) { head.base["identity"] = "changed"; }),
                               Change([](Config&, Manifest& head) { head.base.clear(); })})
    EXPECT_NE(refused(change).find("stands on another base than " + path("a")), std::string::npos) << refused(change);
  EXPECT_NE(refused([](Config&, Manifest& head) { head.data["train.1.idx"] = "3"; }).find("was trained on other data than"),
            std::string::npos);
  for (const auto& [change, what] : {std::pair{Change([](Config&, Manifest& head) { head.step = 8; }), "counts 8 steps, "},
                                     {Change([](Config&, Manifest& head) { head.samples = 57; }), "counts 57 samples, "},
                                     {Change([](Config&, Manifest& head) { head.updates = 6; }), "counts 6 updates, "}}) {
    const std::string said = refused(change);
    EXPECT_NE(said.find(what), std::string::npos) << said;
    EXPECT_NE(said.find("or resume the one that is behind"), std::string::npos) << said;
    std::filesystem::remove_all(path("b"));  // its newest step
  }
}

TEST_F(MergeCheckpoints, AnInputIsNotReplaced) {
  tuned("a", {1}), tuned("b", {2});
  const std::string said = checkpoint_error([&] { merge_checkpoints({path("a"), path("b")}, path("a/../b")); });
  EXPECT_NE(said.find(path("b") + "/step-7: is to be merged, and would be replaced; name another --output"), std::string::npos) << said;
  Checkpoint(path("b") + "/step-7").verify();
}

}  // namespace
}  // namespace offramp
