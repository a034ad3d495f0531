#include "checkpoint/huggingface.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "models/model.h"
#include "tensor/check.h"
#include "tests/files.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

ModelConfig small_model(bool tied = false) {
  return {.num_hidden_layers = 3,
          .hidden_size = 24,
          .intermediate_size = 40,
          .num_attention_heads = 6,
          .num_key_value_heads = 2,
          .vocab_size = 50,
          .max_position_embeddings = 32,
          .rope_theta = 5000.0,
          .rms_norm_eps = 1e-6,
          .tie_word_embeddings = tied,
          .initializer_range = 0.03};
}

// Every kind of head, every kind of sharing, not in order.
std::vector<ExitSpec> all_exits() {
  return {{.layer = 3, .head = HeadKind::attention, .shared_output = true},
          {.layer = 1, .head = HeadKind::mlp, .shared_norm = true},
          {.layer = 2, .head = HeadKind::block}};
}

void write_export(const std::string& directory, const ModelConfig& model, std::span<const ExitSpec> exits, float value) {
  ExportDirectory out(directory);
  write_config_json(out.path(), model, 7);
  write_exits_json(out.path(), exits);
  for (const auto& [name, entries] :
       {std::pair{"/model.safetensors", backbone_entries(model)}, {"/exits.safetensors", exit_entries(model, exits)}}) {
    SafetensorsWriter writer(out.path() + name, entries);
    for (const auto& entry : entries) writer.write(std::vector<float>(static_cast<std::size_t>(entry.shape.elements()), value));
    writer.finish();
  }
  out.commit();
}

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

TEST(HuggingFace, ExitsJson) {
  TemporaryDirectory directory;
  write_exits_json(directory.path(), all_exits());
  std::string text = read_bytes(directory / "exits.json");
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  EXPECT_EQ(text,
            R"({"exits":[{"layer":1,"head":"mlp","output":"own","norm":"shared"},{"layer":2,"head":"block","output":"own","norm":"own"},)"
            R"({"layer":3,"head":"attention","output":"shared","norm":"own"}]})");
  write_exits_json(directory.path(), {});
  text = read_bytes(directory / "exits.json");
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  EXPECT_EQ(text, R"({"exits":[]})");
}

TEST(HuggingFace, ExitEntries) {
  const auto model = small_model();
  std::vector<std::string> found;
  for (const auto& entry : exit_entries(model, all_exits())) found.push_back(entry.name + " " + to_text(entry.shape));
  const std::vector<std::string> expected = {
      "exits.1.mlp.gate_proj.weight [40, 24]",
      "exits.1.mlp.up_proj.weight [40, 24]",
      "exits.1.mlp.down_proj.weight [24, 40]",
      "exits.1.head.weight [50, 24]",
      "exits.2.block.self_attn.q_proj.weight [24, 24]",
      "exits.2.block.self_attn.k_proj.weight [8, 24]",
      "exits.2.block.self_attn.v_proj.weight [8, 24]",
      "exits.2.block.self_attn.o_proj.weight [24, 24]",
      "exits.2.block.mlp.gate_proj.weight [40, 24]",
      "exits.2.block.mlp.up_proj.weight [40, 24]",
      "exits.2.block.mlp.down_proj.weight [24, 40]",
      "exits.2.block.input_layernorm.weight [24]",
      "exits.2.block.post_attention_layernorm.weight [24]",
      "exits.2.norm.weight [24]",
      "exits.2.head.weight [50, 24]",
      "exits.3.block.self_attn.q_proj.weight [24, 24]",
      "exits.3.block.self_attn.k_proj.weight [8, 24]",
      "exits.3.block.self_attn.v_proj.weight [8, 24]",
      "exits.3.block.self_attn.o_proj.weight [24, 24]",
      "exits.3.block.input_layernorm.weight [24]",
      "exits.3.norm.weight [24]",
  };
  EXPECT_EQ(found, expected);
  const std::vector<ExitSpec> bare = {{.layer = 1, .head = HeadKind::bare}, {.layer = 2, .head = HeadKind::bare, .shared_output = true}};
  EXPECT_EQ(exit_entries(model, bare), (std::vector<TensorEntry>{{"exits.1.head.weight", {50, 24}}}));
}

// The files hold exactly the logical tensors that the model is made of.
TEST(HuggingFace, EntriesAreTheModelsTensors) {
  for (const bool tied : {false, true}) {
    const auto config = small_model(tied);
    const auto exits = all_exits();
    auto model = build_model(config, exits);
    std::set<std::string> built, listed;
    const auto note = [&](Parameter& parameter) {
      for (const auto& piece : parameter.pieces) built.insert(piece.name + " " + to_text(piece.global));
    };
    for (auto& unit : model.units) unit.module->visit(note);
    for (auto& head : model.heads) head.visit(note);
    auto entries = backbone_entries(config);
    const auto of_exits = exit_entries(config, exits);
    entries.insert(entries.end(), of_exits.begin(), of_exits.end());
    for (const auto& entry : entries) EXPECT_TRUE(listed.insert(entry.name + " " + to_text(entry.shape)).second) << entry.name;
    EXPECT_EQ(built, listed);
  }
}

TEST(ExportDirectory, AppearsWholeOrNotAtAll) {
  TemporaryDirectory directory;
  const std::string target = directory / "runs/hf";
  {
    ExportDirectory out(target);
    write_config_json(out.path(), small_model(), -1);
    EXPECT_FALSE(fs::exists(target));
  }
  EXPECT_TRUE(names_in(directory / "runs").empty());
  write_export(target + "/", small_model(), all_exits(), 1);
  EXPECT_EQ(names_in(directory / "runs"), std::set<std::string>{"hf"});
  EXPECT_EQ(names_in(target), (std::set<std::string>{"config.json", "exits.json", "exits.safetensors", "model.safetensors"}));
}

TEST(ExportDirectory, ReplacesAnEarlierExport) {
  TemporaryDirectory directory;
  const std::string target = directory / "hf";
  write_export(target, small_model(), all_exits(), 1);
  write_bytes(target + "/tokenizer.model", "of the earlier one");
  write_export(target, small_model(), {}, 2);
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"hf"});
  EXPECT_FALSE(fs::exists(target + "/tokenizer.model"));
  EXPECT_EQ(SafetensorsReader(target + "/model.safetensors").read("model.norm.weight").front(), 2);
}

TEST(ExportDirectory, FollowsALinkToTheRealDirectory) {
  TemporaryDirectory directory;
  fs::create_directory(directory / "disk");
  fs::create_directory_symlink(directory / "disk", directory / "hf");
  write_export(directory / "hf", small_model(), {}, 2);
  EXPECT_TRUE(fs::is_symlink(directory / "hf"));
  EXPECT_TRUE(fs::exists(directory / "disk/config.json"));
}

TEST(ExportDirectory, NeverTouchesForeignFiles) {
  TemporaryDirectory directory;
  const std::string target = directory / "hf";
  write_export(target, small_model(), {}, 1);
  EXPECT_NO_THROW(check_export_target(target));
  EXPECT_NO_THROW(check_export_target(directory / "new"));
  write_bytes(target + "/thesis.tex", "years of work");
  EXPECT_NE(checkpoint_error([&] { check_export_target(target); }).find("'thesis.tex'"), std::string::npos);

  const std::string text = checkpoint_error([&] { write_export(target, small_model(), {}, 2); });
  EXPECT_NE(text.find("'thesis.tex'"), std::string::npos) << text;
  EXPECT_EQ(read_bytes(target + "/thesis.tex"), "years of work");
  EXPECT_EQ(SafetensorsReader(target + "/model.safetensors").read("model.norm.weight").front(), 1);
  // The training that led here was not in vain.
  const auto kept = text.substr(text.find("export is in ") + 13);
  EXPECT_EQ(SafetensorsReader(kept + "/model.safetensors").read("model.norm.weight").front(), 2);
}

TEST(ExportDirectory, KnowsWhatItDidNotWrite) {
  TemporaryDirectory directory;
  fs::create_directory(directory / "downloaded");
  write_bytes(directory / "downloaded/config.json", "{}");
  write_bytes(directory / "downloaded/model.safetensors", "weights");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "downloaded"); }).find("no exits.json"), std::string::npos);
  write_bytes(directory / "file", "");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "file"); }).find("is a file"), std::string::npos);
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "file/below"); }).find("cannot create"), std::string::npos);
  fs::create_directories(directory / "nested/tokenizer.model");  // a directory under one of our names
  write_bytes(directory / "nested/exits.json", "{}");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "nested"); }).find("'tokenizer.model'"), std::string::npos);
}

constexpr const char* kReadWithTransformers = R"(
import sys
import torch
from transformers import AutoModelForCausalLM

def describe(path):
    model, report = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    config = model.config
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                "max_position_embeddings", "rms_norm_eps", "initializer_range", "tie_word_embeddings", "hidden_act", "attention_bias",
                "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id"):
        print(key, getattr(config, key))
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}
    print("rope_theta", rope["rope_theta"])
    print("class", type(model).__name__, model.dtype)
    print("problems", [sorted(v) for k, v in sorted(report.items()) if k != "error_msgs" and v])
    print("all ones", all(bool((p == 1).all()) for p in model.parameters()))
    print(*[name for name in model.state_dict() if not (config.tie_word_embeddings and name == "lm_head.weight")])

describe(sys.argv[1] + "/untied")
describe(sys.argv[1] + "/tied")
)";

std::string expected_description(const ModelConfig& model) {
  std::string names;
  for (const auto& entry : backbone_entries(model)) names += (names.empty() ? "" : " ") + entry.name;
  return "vocab_size 50\nhidden_size 24\nintermediate_size 40\nnum_hidden_layers 3\nnum_attention_heads 6\nnum_key_value_heads 2\nhead_dim "
         "4\n"
         "max_position_embeddings 32\nrms_norm_eps 1e-06\ninitializer_range 0.03\ntie_word_embeddings " +
         std::string(model.tie_word_embeddings ? "True" : "False") +
         "\nhidden_act silu\nattention_bias False\nmlp_bias False\nbos_token_id None\neos_token_id 7\npad_token_id None\nrope_theta "
         "5000.0\n"
         "class LlamaForCausalLM torch.float32\nproblems []\nall ones True\n" +
         names + "\n";
}

TEST(HuggingFace, TransformersReadsIt) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  write_export(directory / "untied", small_model(), all_exits(), 1);
  write_export(directory / "tied", small_model(true), all_exits(), 1);
  EXPECT_EQ(run_python(directory, kReadWithTransformers, directory.path()),
            expected_description(small_model()) + expected_description(small_model(true)));
}

}  // namespace
}  // namespace offramp
