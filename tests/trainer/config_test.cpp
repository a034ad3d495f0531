// Configurations: each file of bad_configs/ is refused with exactly the lines its `# expect: line:col: substring` comments name.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "tensor/check.h"
#include "trainer/schema.h"
#include "trainer/yaml.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;
const fs::path kHere = fs::path(OFFRAMP_TESTS) / "trainer";
const std::string kGood = (kHere / "good.yaml").string();

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The lines a configuration is refused with; none when it is accepted.
std::vector<std::string> refusal(const std::string& path, const std::vector<std::string>& sets = {}) {
  try {
    read_config(path, sets);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    return lines_of(error.what());
  }
  return {};
}

// A file of this test that is gone afterwards.
struct TemporaryFile {
  explicit TemporaryFile(const std::string& text) {
    static int count = 0;
    path = (fs::temp_directory_path() / fmt::format("offramp_config_{}_{}.yaml", ::getpid(), count++)).string();
    std::ofstream(path, std::ios::binary) << text;
  }
  ~TemporaryFile() { fs::remove(path); }
  std::string path;
};

struct Expected {
  std::string prefix, substring;  // "/.../file.yaml:3:5: ", "did you mean"
};

std::vector<Expected> expectations(const fs::path& path) {
  std::vector<Expected> expected;
  const std::regex pattern(R"(# expect: (\w+\.yaml:)?(\d+:\d+): (.*))");
  for (const std::string& line : lines_of(text_of(path))) {
    std::smatch match;
    if (!std::regex_match(line, match, pattern)) continue;
    const std::string file = match[1].matched ? (path.parent_path() / match[1].str()).string() : path.string() + ":";
    expected.push_back({fmt::format("{}{}: ", file, match[2].str()), match[3].str()});
  }
  return expected;
}

TEST(BadConfigs, EachIsRefusedWhereItIsWrong) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kHere / "bad_configs")) {
    SCOPED_TRACE(entry.path().filename().string());
    const auto expected = expectations(entry.path());
    auto lines = refusal(entry.path().string());
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(lines.size(), expected.size()) << fmt::format("{}", fmt::join(lines, "\n"));
    for (const Expected& e : expected) {
      const auto found = std::find_if(lines.begin(), lines.end(), [&](const std::string& line) {
        return line.starts_with(e.prefix) && line.find(e.substring, e.prefix.size()) != std::string::npos;
      });
      EXPECT_NE(found, lines.end()) << "no line " << e.prefix << e.substring << " in\n" << fmt::format("{}", fmt::join(lines, "\n"));
      if (found != lines.end()) lines.erase(found);
    }
    ++count;
  }
  EXPECT_GE(count, 60);
}

TEST(Config, DefaultsAreThoseOfTheReference) {
  const Config c = read_config(kGood, {});
  EXPECT_EQ(c.model.num_key_value_heads, 4);
  EXPECT_EQ(c.model.max_position_embeddings, 16);
  EXPECT_EQ(c.training.stop_at, 10);
  EXPECT_EQ(c.parallel.data_parallel_size, 0);
  EXPECT_EQ(c.parallel.schedule, "1f1b");
  EXPECT_EQ(c.exit_loss.schedule, "constant");
  EXPECT_EQ(c.training.timeout_s, 300);
  EXPECT_EQ(c.training.seed, 1234u);
  ASSERT_EQ(c.exits.size(), 2u);
  EXPECT_EQ(c.exits[0].head, HeadKind::norm);
  EXPECT_EQ(c.exits[1].head, HeadKind::mlp);
  EXPECT_FALSE(c.exits[0].shared_output || c.exits[0].shared_norm || c.exits[0].confidence_weights || c.exits[0].detach);
  EXPECT_EQ(c.exits[0].lr_scale, 1);
  EXPECT_TRUE(c.data.validation.empty() && c.data.loss_mask.empty() && c.export_hf.empty() && c.logging.directory.empty());
  EXPECT_TRUE(c.data.shuffle && !c.data.document_mask && c.logging.tensorboard);
}

// Every key away from its default, so that a key wired to the wrong field shows.
const char* const kEveryKey = R"(
model: {architecture: llama, num_hidden_layers: 6, hidden_size: 48, intermediate_size: 80, num_attention_heads: 6, num_key_value_heads: 3,
  head_dim: 10, vocab_size: 300, max_position_embeddings: 99, rope_theta: 5000.5, rms_norm_eps: 1.0e-6, tie_word_embeddings: true,
  attention_dropout: 0.25, hidden_dropout: 0.5, initializer_range: 0.03,
  rope_scaling: {rope_type: llama3, factor: 32.0, low_freq_factor: 1.5, high_freq_factor: 5.0, original_max_position_embeddings: 64}}
exits:
  - {layer: 5, head: attention, output: shared, norm: shared, loss_weight: 0.1, token_weight: confidence, detach: true, lr_scale: 0.0,
     init: copy_layer}
  - {layer: 1, head: bare, output: shared, loss_weight: 0.0}
exit_loss: {schedule: cosine, start_scale: 0.125, warmup_steps: 77}
parallel: {tensor_parallel_size: 1, pipeline_parallel_size: 3, data_parallel_size: 3, zero_stage: 1, fill_bubbles: warmup,
  exit_placement: after_forward, recompute: full, partition: [3, 2, 1]}
training: {sequence_length: 20, micro_batch_size: 5, global_batch_size: 45, steps: 12, stop_at: 7, seed: 9007199254740993, threads: 2,
  precision: bf16,
  validation_interval: 4, validation_samples: 9, timeout_s: 1.5, nan: skip}
optimizer: {name: sgd, lr: 0.1, betas: [0.5, 0.75], eps: 1.0e-7, weight_decay: 0.2, clip_grad_norm: 0.0, momentum: 0.875, nesterov: true,
  lr_schedule: {name: wsd, warmup_steps: 3, min_lr: 0.01, decay_steps: 8}}
data: {train: 'a: b''s', validation: [{path: c}, {path: '12'}], shuffle: false, document_mask: true, loss_mask: "#mask"}
checkpoint: {directory: saved, interval: 50, keep: 4}
export: {hf: 'null'}
logging: {directory: "d \\ e", interval: 11, tensorboard: false, profile_steps: [2, 3]}
)";

// Keys that mean nothing beside some of those above.
const char* const kOtherKeys = R"(
model: {architecture: gpt2, num_hidden_layers: 4, hidden_size: 36, intermediate_size: 80, num_attention_heads: 4, vocab_size: 300,
  layer_norm_epsilon: 1.0e-6}
exits: [{layer: 1}, {layer: 3, loss_weight: 2}]
layerskip: {p_max: 0.125, time: exponential, e_scale: 0.75, curriculum: gradual}
parallel: {tensor_parallel_size: 4, pipeline_parallel_size: 2, virtual_stages: 2, sequence_parallel: true, schedule: auto, in_flight: 1f1b+2,
  shard_heads_over_pipeline: true,
  memory_limit: 80000000000}
training: {sequence_length: 20, micro_batch_size: 5, global_batch_size: 30, steps: 12}
optimizer: {lr: 0.1}
data: {train: a}
)";

// And beside these.
const char* const kTuningKeys = R"(
model: {num_hidden_layers: 4, hidden_size: 32, intermediate_size: 64, num_attention_heads: 4, vocab_size: 257}
exits: [{layer: 1, loss_weight: 0.5}, {layer: 3, loss_weight: 2, target: argmax}]
parallel: {pipeline_parallel_size: 3, partition: [1, 1, 2], schedule: interleaved, virtual_stages: 2}
training: {sequence_length: 20, micro_batch_size: 5, global_batch_size: 35, steps: 12, freeze: backbone}
optimizer: {lr: 0.1}
data: {train: a}
)";

// And beside exits that learn from the final head.
const char* const kFeatureKeys = R"(
model: {num_hidden_layers: 4, hidden_size: 32, intermediate_size: 64, num_attention_heads: 4, vocab_size: 257}
exits: [{layer: 1, loss_weight: 0.5}, {layer: 3, loss_weight: 2, target: distribution}]
training: {sequence_length: 20, micro_batch_size: 5, global_batch_size: 35, steps: 12, freeze: backbone}
tuning: {feature_cache: features, feature_dtype: bf16}
optimizer: {lr: 0.1}
data: {train: a}
)";

// A supernet, of which every axis is elastic.
const char* const kSupernetKeys = R"(
model: {num_hidden_layers: 4, hidden_size: 32, intermediate_size: 64, num_attention_heads: 8, num_key_value_heads: 4, vocab_size: 257}
exits: [{layer: 1, loss_weight: 0.5}, {layer: 3, loss_weight: 2}]
supernet: {plan: sandwich, num_hidden_layers: [3, 4], hidden_size: [16, 24, 32], intermediate_size: [8, 64], num_key_value_heads: [1, 4],
  queries_per_group: [1, 2], random_subnets: 5, distillation: true, temperature: 2.5, label_weight: 0.5, sort_step: 7}
training: {sequence_length: 20, micro_batch_size: 5, global_batch_size: 35, steps: 12}
optimizer: {lr: 0.1}
data: {train: a}
)";

TEST(Config, EveryKeyReachesItsField) {
  const TemporaryFile file(kEveryKey);
  const Config c = read_config(file.path, {});
  EXPECT_EQ(c.model.hidden_size, 48);
  EXPECT_EQ(c.model.num_key_value_heads, 3);
  EXPECT_EQ(c.model.head_size(), 10);
  EXPECT_EQ(c.checkpoint.directory, "saved");
  EXPECT_EQ(c.checkpoint.interval, 50);
  EXPECT_EQ(c.checkpoint.keep, 4);
  EXPECT_EQ(c.model.rope_theta, 5000.5);
  EXPECT_EQ(c.model.rope_scaling, (RopeScaling{"llama3", 32.0, 1.5, 5.0, 64}));
  ASSERT_EQ(c.exits.size(), 2u);  // sorted by layer
  EXPECT_EQ(c.exits[0].layer, 1);
  EXPECT_EQ(c.exits[0].head, HeadKind::bare);
  EXPECT_EQ(c.exits[1].head, HeadKind::attention);
  EXPECT_TRUE(c.exits[1].shared_output && c.exits[1].shared_norm && c.exits[1].confidence_weights && c.exits[1].detach);
  EXPECT_EQ(c.exits[1].lr_scale, 0);
  EXPECT_EQ(c.exits[1].init, ExitInit::copy_layer);
  EXPECT_EQ(c.training.seed, 9007199254740993u);
  EXPECT_EQ(c.training.stop_at, 7);
  EXPECT_EQ(c.optimizer.betas[1], 0.75);
  EXPECT_EQ(c.optimizer.lr_schedule.decay_steps, 8);
  EXPECT_EQ(c.data.train[0].path, "a: b's");
  ASSERT_EQ(c.data.validation.size(), 2u);
  EXPECT_EQ(c.data.validation[1].path, "12");
  EXPECT_EQ(c.export_hf, "null");  // in quotes: a directory of that name
  EXPECT_EQ(c.model.attention_dropout, 0.25);
  EXPECT_EQ(c.model.hidden_dropout, 0.5);
  EXPECT_EQ(c.parallel.zero_stage, 1);
  EXPECT_EQ(c.training.precision, "bf16");
  EXPECT_EQ(c.logging.profile_steps, (std::array<std::int64_t, 2>{2, 3}));
  EXPECT_EQ(c.parallel.partition.layers, (std::vector<int>{3, 2, 1}));
  EXPECT_EQ(c.parallel.fill_bubbles, "warmup");
  EXPECT_FALSE(c.layerskip.enabled);
}

// One size has one form, so that a model that states it is the same as one that does not.
TEST(Config, HeadsHaveASizeOfTheirOwnOrDivideTheHiddenSize) {
  using Sets = std::vector<std::string>;
  EXPECT_EQ(read_config(kGood, Sets{"model.head_dim=8"}).model, read_config(kGood, {}).model);
  EXPECT_EQ(print_config(read_config(kGood, Sets{"model.head_dim=8"})).find("head_dim"), std::string::npos);
  EXPECT_EQ(read_config(kGood, Sets{"model.head_dim=6"}).model.head_size(), 6);
  EXPECT_EQ(read_config(kGood, Sets{"model.head_dim=10", "model.hidden_size=33"}).model.head_size(), 10);
}

TEST(Config, OtherKeysReachTheirFields) {
  const TemporaryFile file(kOtherKeys);
  const Config c = read_config(file.path, {});
  EXPECT_TRUE(c.model.gpt2());
  EXPECT_EQ(c.model.layer_norm_epsilon, 1e-6);
  EXPECT_EQ(c.model.num_key_value_heads, 4);
  EXPECT_EQ(c.parallel.tensor_parallel_size, 4);
  EXPECT_TRUE(c.parallel.sequence_parallel);
  EXPECT_EQ(c.parallel.in_flight.text, "1f1b+2");
  EXPECT_EQ(c.parallel.memory_limit, 80'000'000'000);
  EXPECT_EQ(read_config(kGood, std::vector<std::string>{"parallel.schedule=auto"}).parallel.in_flight.text, "1f1b");
  EXPECT_EQ(read_config(kGood, std::vector<std::string>{"parallel={schedule: auto, memory_limit: 1}"}).parallel.in_flight.text, "any");
  EXPECT_TRUE(c.layerskip.enabled);
  EXPECT_EQ(c.layerskip.p_max, 0.125);
  EXPECT_EQ(c.layerskip.time, "exponential");
  EXPECT_EQ(c.layerskip.e_scale, 0.75);
  EXPECT_EQ(c.layerskip.curriculum, "gradual");
  const Config rotational = read_config(kGood, std::vector<std::string>{"layerskip={p_max: 0.1, rotation: 3}"});
  EXPECT_EQ(rotational.layerskip.rotation, 3);
  EXPECT_EQ(rotational.layerskip.curriculum, "rotational");
}

TEST(Config, SupernetKeysReachTheirFields) {
  const TemporaryFile file(kSupernetKeys);
  const SupernetConfig given = read_config(file.path, {}).supernet;
  EXPECT_TRUE(given.enabled && given.distillation);
  EXPECT_EQ(given.plan, PlanKind::sandwich);
  EXPECT_EQ(given.space, (Space{{3, 4}, {16, 24, 32}, {8, 64}, {1, 4}, {1, 2}}));
  EXPECT_EQ(given.random_subnets, 5);
  EXPECT_EQ(given.temperature, 2.5);
  EXPECT_EQ(given.label_weight, 0.5);
  EXPECT_EQ(given.sort_step, 7);
  const std::vector<std::string> other = {"supernet={plan: deps, start: 3, ramp: 4, distillation: false}"};
  const SupernetConfig deps = read_config(kGood, other).supernet;
  EXPECT_EQ(deps.plan, PlanKind::deps);
  EXPECT_TRUE(deps.start == 3 && deps.ramp == 4 && deps.sort_step == 4 && !deps.distillation);
}

std::string name_of_key(const SchemaKey& key) { return std::string(key.path.substr(key.path.rfind('.') + 1)); }

TEST(Config, PrintedConfigurationReadsBackEqual) {
  const TemporaryFile every(kEveryKey), other(kOtherKeys), tuning(kTuningKeys), features(kFeatureKeys), supernet(kSupernetKeys),
      delayed(fmt::format("extends: {}\ntraining: {{steps: 1}}\nsupernet: {{start: 1, distillation: false}}\n", kGood));
  const TemporaryFile file(fmt::format("extends: {}\nparallel: {{schedule: 'file:a b'}}\n", kGood));
  EXPECT_EQ(read_config(file.path, {}).parallel.schedule, "file:a b");
  for (const std::string& path : {kGood, every.path, other.path, tuning.path, features.path, supernet.path, delayed.path, file.path}) {
    const Config config = read_config(path, {});
    const std::string printed = print_config(config);
    const TemporaryFile again(printed);
    EXPECT_EQ(print_config(read_config(again.path, {})), printed);
    for (const SchemaKey& key : schema()) {
      const bool found = printed.find(name_of_key(key) + ": ") != std::string::npos;
      EXPECT_TRUE(found || !key.means_something(config)) << key.path;
    }
    EXPECT_EQ(printed.find("layer_norm_epsilon") == std::string::npos, !config.model.gpt2());
    EXPECT_EQ(printed.find("layerskip") == std::string::npos, !config.layerskip.enabled);
    EXPECT_EQ(printed.find("exit_loss") == std::string::npos, config.layerskip.enabled);
  }
  // The texts above move every key that can move, so nothing is compared with itself. (model.from needs a model that is there.)
  const Config fresh = read_config(kGood, {}), one = read_config(every.path, {}), two = read_config(other.path, {}),
               three = read_config(tuning.path, {}), four = read_config(features.path, {}), five = read_config(supernet.path, {}),
               six = read_config(delayed.path, {});
  for (const SchemaKey& key : schema()) {
    if (key.rule.choices.size() == 1 || key.path == "layerskip.rotation" || key.path == "model.from") continue;
    const std::string value = print_value(key, fresh, 0);
    const auto moved = [&](const Config& config) { return print_value(key, config, 1) != value; };
    EXPECT_TRUE(moved(one) || moved(two) || moved(three) || moved(four) || moved(five) || moved(six)) << key.path;
  }
}

// A frozen backbone always runs exits alone: what belongs to a schedule is left alone, and the layers end with the last exit.
TEST(Config, AFrozenBackboneTakesAnySchedule) {
  const TemporaryFile tuning(kTuningKeys);
  const Config c = read_config(tuning.path, {});
  EXPECT_TRUE(c.frozen_backbone());
  EXPECT_EQ(c.exits[1].target, Target::argmax);
  EXPECT_EQ(c.layers(), 4);  // all run for the final head
  const Config of_labels = read_config(tuning.path, std::vector<std::string>{"exits.1.target=labels", "parallel.partition=[1, 1, 1]"});
  EXPECT_EQ(of_labels.layers(), 3);
  const std::vector<std::string> lines = refusal(tuning.path, {"parallel.partition=[2, 1, 1]", "exits.1.target=labels"});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("adds up to 4 layers, but with a frozen backbone the last exit's layer is 3"), std::string::npos) << lines[0];
}

TEST(Config, SetsOverrideInOrder) {
  const Config c = read_config(kGood, std::vector<std::string>{"training.steps=20", "training.steps=30", "exits.0.layer=1",
                                                               "optimizer.betas=[0.1, 0.2]", "exits.2={layer: 4, loss_weight: 1}",
                                                               "logging.directory=runs/x", "data.train=[{path: a}, {path: b, weight: 2}]"});
  EXPECT_EQ(c.training.steps, 30);
  EXPECT_EQ(c.training.stop_at, 30);
  EXPECT_EQ(c.exits[0].layer, 1);
  EXPECT_EQ(c.exits.size(), 3u);
  EXPECT_EQ(c.optimizer.betas[0], 0.1);
  EXPECT_EQ(c.logging.directory, "runs/x");
  EXPECT_EQ(c.data.train[1].weight, 2);
}

TEST(Config, WrongSetsAreLocated) {
  const auto one = [](const std::string& set) {
    const auto lines = refusal(kGood, {set});
    EXPECT_EQ(lines.size(), 1u) << set;
    return lines.empty() ? std::string() : lines[0];
  };
  for (const char* set : {"training.steps", "=3", ".a=3", "training.=3", "training..steps=3"}) {
    EXPECT_EQ(one(set), fmt::format("--set {}: expected section.key=value", set));
  }
  EXPECT_EQ(one("training.steps=-1"),
            "--set training.steps=-1: training.steps: -1 is out of range: it must be at least 0; the nearest is 0");
  EXPECT_NE(one("training.stpes=1").find("did you mean steps?"), std::string::npos);
  EXPECT_NE(one("exits.7.layer=1").find("no index of a list of 2"), std::string::npos);
  EXPECT_NE(one("exits.x.layer=1").find("no index of a list of 2"), std::string::npos);
  EXPECT_NE(one("training.steps.more=1").find("there is nothing below \"10\""), std::string::npos);
  EXPECT_NE(one("training.steps=[1").find("not YAML"), std::string::npos);
  EXPECT_NE(one("training.steps=").find("found nothing"), std::string::npos);
  EXPECT_NE(one("extends=x").find("in a file only"), std::string::npos);
  EXPECT_NE(one("exits.1.layer=2").find("layer 2 has an exit already"), std::string::npos);
  std::string deep = "a";
  for (int i = 0; i < 50000; ++i) deep += ".a";
  EXPECT_NE(one(deep + "=1").find("expected section.key=value"), std::string::npos);
}

TEST(Config, ExtendsMergesMapsAndReplacesLists) {
  const TemporaryFile file(
      fmt::format("extends: {}\ntraining: {{steps: 99}}\nexits: [{{layer: 1, loss_weight: 2}}]\nlogging: {{directory: null}}\n", kGood));
  const Config c = read_config(file.path, {});
  EXPECT_EQ(c.training.steps, 99);
  EXPECT_EQ(c.training.sequence_length, 16);
  ASSERT_EQ(c.exits.size(), 1u);
  EXPECT_EQ(c.exits[0].loss_weight, 2);
}

TEST(Config, LegalOddities) {
  using Sets = std::vector<std::string>;
  for (const Sets& sets : {Sets{"training.steps=0"},
                           Sets{"training.stop_at=10", "training.steps=0"},
                           Sets{"optimizer.lr_schedule.warmup_steps=500"},
                           Sets{"exit_loss={schedule: linear, warmup_steps: 500}"},
                           Sets{"exits=[{layer: 4, loss_weight: 1}]"},
                           Sets{"exits=[{layer: 4, loss_weight: 1, head: bare, output: shared}]"},
                           Sets{"exits=[]"},
                           Sets{"optimizer.lr_schedule={name: wsd, warmup_steps: 20, decay_steps: 5}"},
                           Sets{"exits.0.loss_weight=0"},
                           Sets{"parallel.pipeline_parallel_size=4"},
                           Sets{"parallel.data_parallel_size=auto"},
                           Sets{"training.stop_at=0"},
                           Sets{"optimizer.lr=+1"},
                           Sets{"optimizer.lr=.5"},
                           Sets{"optimizer.lr=1E-3"},
                           Sets{"data.validation=null"},
                           Sets{"optimizer.name=sgd"},
                           Sets{"parallel.sequence_parallel=true"},
                           Sets{"parallel.zero_stage=1"},
                           Sets{"parallel.zero_stage=1", "parallel.data_parallel_size=1"},
                           Sets{"parallel={tensor_parallel_size: 4, pipeline_parallel_size: 4}"},
                           Sets{"parallel.schedule=file:some where.txt"},
                           Sets{"model.architecture=gpt2"},
                           Sets{"model.architecture=gpt2", "model.hidden_size=36"},
                           Sets{"model.architecture=gpt2", "model.num_key_value_heads=4"},
                           Sets{"layerskip={p_max: 0}"},
                           Sets{"layerskip={p_max: 0.1}", "exits=[{layer: 1}]"},
                           Sets{"logging={directory: a, profile_steps: [10, 99]}"},
                           Sets{"logging.profile_steps=null"},
                           Sets{"supernet={}", "training.steps=0"},
                           Sets{"supernet={}", "layerskip={p_max: 0.1}", "exits=[{layer: 1}]"},
                           Sets{"supernet={hidden_size: [1, 31, 32], queries_per_group: [1]}"},
                           Sets{"supernet={ramp: 500}"},
                           Sets{"supernet={plan: full}", "parallel={pipeline_parallel_size: 2, schedule: zero_bubble}"},
                           Sets{"supernet={plan: sandwich}", "parallel={pipeline_parallel_size: 2, in_flight: 1f1b+1}"},
                           Sets{"supernet={plan: ofa, start: 10}"},
                           Sets{"supernet={plan: ofa, start: 0}"},
                           Sets{"supernet={plan: ofa, start: 0, distillation: false}"},
                           Sets{"supernet={plan: ofa, temperature: 2}"}}) {
    EXPECT_EQ(refusal(kGood, sets), std::vector<std::string>()) << fmt::format("{}", fmt::join(sets, " "));
  }
}

TEST(Config, UnreadableFiles) {
  EXPECT_EQ(refusal("/nowhere/job.yaml"), std::vector<std::string>{"/nowhere/job.yaml: no such file"});
  EXPECT_EQ(refusal(kHere.string()), std::vector<std::string>{kHere.string() + ": is a directory: name a YAML file"});
  EXPECT_EQ(refusal("").size(), 1u);
  const TemporaryFile control("model: {a: 1}\nx: \x04 hidden\n");
  EXPECT_EQ(refusal(control.path), std::vector<std::string>{control.path + ":2:4: byte 0x04: this is no text file"});
  const TemporaryFile latin("data: {train: caf\xe9}\n");
  EXPECT_EQ(refusal(latin.path).size(), 1u);
}

// Inputs that cost a careless reader its stack, its memory or its time.
TEST(Config, HostileFilesAreRefusedQuickly) {
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'n'; ++c)
    bomb += fmt::format("{0}: &{0} [*{1}, *{1}, *{1}, *{1}, *{1}, *{1}, *{1}, *{1}, *{1}]\n", c, static_cast<char>(c - 1));
  std::string keys, noise;
  for (int i = 0; i < 50000; ++i) keys += fmt::format("k{}: 1\n", i);
  for (std::uint32_t i = 0, x = 1; i < 1000000; ++i) x = x * 1664525 + 1013904223, noise += static_cast<char>(32 + (x >> 24) % 95);
  const auto repeat = [](const char* text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  for (const std::string& text :
       {bomb, keys, noise, repeat("[", 200000), repeat("{", 200000), repeat("- ", 100000), repeat("? ", 100000), repeat("{a: ", 100000),
        repeat("exits:\n", 100000), "exits:\n" + repeat("  - 3\n", 15000), std::string(10 << 20, 'x'), std::string(1000, '\0')}) {
    const TemporaryFile file(text);
    EXPECT_FALSE(refusal(file.path).empty()) << text.substr(0, 40);
  }
}

TEST(CheckWorld, BlamesTheKeyThatWasWritten) {
  const auto wrong = [](const std::vector<std::string>& sets, int world) -> std::string {
    try {
      check_world(read_located_config(kGood, sets), world);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Exit::configuration);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(wrong({}, 1), "");
  EXPECT_EQ(wrong({}, 4), "");
  EXPECT_EQ(wrong({"parallel.pipeline_parallel_size=2"}, 8), "");
  EXPECT_TRUE(wrong({"parallel.pipeline_parallel_size=2"}, 3).starts_with("--set parallel.pipeline_parallel_size=2: "));
  EXPECT_EQ(wrong({"training.global_batch_size=131068"}, 2), "");  // 32,767 microbatches
  EXPECT_NE(wrong({"training.global_batch_size=131072"}, 2).find("32768 microbatches a rank"), std::string::npos);
  EXPECT_EQ(wrong({"parallel={tensor_parallel_size: 2, pipeline_parallel_size: 2}"}, 8), "");
  EXPECT_NE(wrong({"parallel={tensor_parallel_size: 2, pipeline_parallel_size: 2}"}, 6).find("start a multiple of 4 ranks"),
            std::string::npos);
  EXPECT_TRUE(wrong({"parallel.tensor_parallel_size=2"}, 3).starts_with("--set parallel.tensor_parallel_size=2: "));
  EXPECT_NE(wrong({"parallel={tensor_parallel_size: 2, data_parallel_size: 2}"}, 8).find("needs 4 ranks, started with 8; the nearest is 4"),
            std::string::npos);
  EXPECT_NE(wrong({"parallel.data_parallel_size=2"}, 4).find("needs 2 ranks, started with 4; the nearest is 4"), std::string::npos);
  const std::vector<std::string> cached = {"training.freeze=backbone", "tuning.feature_cache=x", "parallel.pipeline_parallel_size=2"};
  EXPECT_EQ(wrong(cached, 4), "");
  EXPECT_NE(wrong(cached, 8).find("8 is not divisible by micro_batch_size 2 x 8 ranks, which all are replicas"), std::string::npos);
  EXPECT_TRUE(wrong({}, 3).starts_with(kGood + ":5:73: training.global_batch_size: 8 is not divisible")) << wrong({}, 3);
}

TEST(Reference, CommittedFileIsTheGeneratedOne) {
  EXPECT_TRUE(text_of(kHere / "../../docs/configuration.md") == configuration_reference())
      << "regenerate: build/offramp train --config-reference > docs/configuration.md";
}

TEST(Suggestions, Nearest) {
  const std::vector<std::string> words = {"steps", "seed", "stop_at"};
  EXPECT_EQ(nearest("setps", words), "steps");
  EXPECT_EQ(nearest("STEPS", words), "steps");
  EXPECT_EQ(nearest("stop", words), "stop_at");
  EXPECT_EQ(nearest(std::string(1 << 20, 'x'), words).empty(), false);
}

}  // namespace
}  // namespace offramp
