#include "checkpoint/huggingface.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "models/model.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

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

// "name [shape]" of each tensor in a file; of one that is not a single tensor of ours, as it is: " <- parts", with ^T if transposed.
std::vector<std::string> described(std::span<const ExportEntry> entries) {
  std::vector<std::string> lines;
  for (const ExportEntry& entry : entries) {
    std::string line = entry.file.name + " " + to_text(entry.file.shape);
    const bool as_it_is = !entry.transposed && entry.parts == std::vector<std::string>{entry.file.name};
    if (!as_it_is) line += fmt::format(" <- {}{}", fmt::join(entry.parts, " | "), entry.transposed ? " ^T" : "");
    lines.push_back(line);
  }
  return lines;
}

TEST(HuggingFace, ExitEntries) {
  const auto model = small_model();
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
  EXPECT_EQ(described(exit_entries(model, all_exits())), expected);
  const std::vector<ExitSpec> bare = {{.layer = 1, .head = HeadKind::bare}, {.layer = 2, .head = HeadKind::bare, .shared_output = true}};
  EXPECT_EQ(described(exit_entries(model, bare)), std::vector<std::string>{"exits.1.head.weight [50, 24]"});
}

TEST(HuggingFace, Gpt2Entries) {
  const std::vector<std::string> expected = {
      "transformer.wte.weight [50, 20]",
      "transformer.wpe.weight [32, 20]",
      "transformer.h.0.ln_1.weight [20]",
      "transformer.h.0.ln_1.bias [20]",
      "transformer.h.0.attn.c_attn.weight [20, 60] <- transformer.h.0.attn.q_proj.weight | transformer.h.0.attn.k_proj.weight | "
      "transformer.h.0.attn.v_proj.weight ^T",
      "transformer.h.0.attn.c_attn.bias [60] <- transformer.h.0.attn.q_proj.bias | transformer.h.0.attn.k_proj.bias | "
      "transformer.h.0.attn.v_proj.bias",
      "transformer.h.0.attn.c_proj.weight [20, 20] <- transformer.h.0.attn.c_proj.weight ^T",
      "transformer.h.0.attn.c_proj.bias [20]",
      "transformer.h.0.ln_2.weight [20]",
      "transformer.h.0.ln_2.bias [20]",
      "transformer.h.0.mlp.c_fc.weight [20, 36] <- transformer.h.0.mlp.c_fc.weight ^T",
      "transformer.h.0.mlp.c_fc.bias [36]",
      "transformer.h.0.mlp.c_proj.weight [36, 20] <- transformer.h.0.mlp.c_proj.weight ^T",
      "transformer.h.0.mlp.c_proj.bias [20]",
      "transformer.ln_f.weight [20]",
      "transformer.ln_f.bias [20]",
  };
  ModelConfig model = small_gpt2(true);
  model.num_hidden_layers = 1;
  EXPECT_EQ(described(backbone_entries(model)), expected);
  model.tie_word_embeddings = false;
  EXPECT_EQ(described(backbone_entries(model)).back(), "lm_head.weight [50, 20]");
}

TEST(HuggingFace, Gpt2ExitEntries) {
  const auto block = [](const std::string& exit, bool with_mlp) {
    std::vector<std::string> lines = {
        exit + ".ln_1.weight [20]",
        exit + ".ln_1.bias [20]",
        fmt::format("{0}.attn.c_attn.weight [20, 60] <- {0}.attn.q_proj.weight | {0}.attn.k_proj.weight | {0}.attn.v_proj.weight ^T", exit),
        fmt::format("{0}.attn.c_attn.bias [60] <- {0}.attn.q_proj.bias | {0}.attn.k_proj.bias | {0}.attn.v_proj.bias", exit),
        fmt::format("{0}.attn.c_proj.weight [20, 20] <- {0}.attn.c_proj.weight ^T", exit),
        exit + ".attn.c_proj.bias [20]",
    };
    if (with_mlp) lines.insert(lines.end(), {exit + ".ln_2.weight [20]", exit + ".ln_2.bias [20]"});
    return lines;
  };
  const auto mlp = [](const std::string& prefix) {
    return std::vector<std::string>{
        fmt::format("{0}.mlp.c_fc.weight [20, 36] <- {0}.mlp.c_fc.weight ^T", prefix), prefix + ".mlp.c_fc.bias [36]",
        fmt::format("{0}.mlp.c_proj.weight [36, 20] <- {0}.mlp.c_proj.weight ^T", prefix), prefix + ".mlp.c_proj.bias [20]"};
  };
  std::vector<std::string> expected;
  for (const auto& lines : {mlp("exits.1"),
                            {"exits.1.head.weight [50, 20]"},
                            block("exits.2.block", true),
                            mlp("exits.2.block"),
                            {"exits.2.norm.weight [20]", "exits.2.norm.bias [20]", "exits.2.head.weight [50, 20]"},
                            block("exits.3.block", false),
                            {"exits.3.norm.weight [20]", "exits.3.norm.bias [20]"}}) {
    expected.insert(expected.end(), lines.begin(), lines.end());
  }
  EXPECT_EQ(described(exit_entries(small_gpt2(), all_exits())), expected);
}

// The files hold exactly the logical tensors that the model is made of: each once, with as many elements.
TEST(HuggingFace, EntriesAreTheModelsTensors) {
  for (ModelConfig config : {small_model(), small_model(true), small_gpt2(), small_gpt2(true)}) {
    config.num_hidden_layers = 3;  // of every exit
    const auto exits = all_exits();
    auto model = build_model(config, exits);
    std::set<std::string> built, listed;
    const auto note = [&](Parameter& parameter) {
      for (const auto& piece : parameter.pieces) built.insert(fmt::format("{} {}", piece.name, piece.global.elements()));
    };
    for (auto& unit : model.units) unit.module->visit(note);
    for (auto& head : model.heads) head.visit(note);
    auto entries = backbone_entries(config);
    const auto of_exits = exit_entries(config, exits);
    entries.insert(entries.end(), of_exits.begin(), of_exits.end());
    for (const auto& entry : entries) {
      const auto each = entry.file.shape.elements() / static_cast<std::int64_t>(entry.parts.size());
      for (const std::string& part : entry.parts) EXPECT_TRUE(listed.insert(fmt::format("{} {}", part, each)).second) << part;
    }
    EXPECT_EQ(built, listed) << config.architecture;
  }
}

TEST(HuggingFace, RopeScalingInBothForms) {
  TemporaryDirectory directory;
  ModelConfig model = small_model();
  model.rope_scaling = {"llama3", 8, 1, 4, 64};
  write_config_json(directory.path(), model, -1, FloatType::bf16);
  std::string text = read_bytes(directory / "config.json");
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  const std::string settings =
      R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64)";
  EXPECT_NE(text.find("\"rope_scaling\":{" + settings + "}"), std::string::npos) << text;
  EXPECT_NE(text.find("\"rope_parameters\":{" + settings + ",\"rope_theta\":5000.0}"), std::string::npos) << text;
  EXPECT_NE(text.find(R"("torch_dtype":"bfloat16","dtype":"bfloat16")"), std::string::npos) << text;
}

// transformers' frequencies of the configuration that is written, those that stay, those between and those that are divided.
TEST(HuggingFace, TransformersStretchesRotationsAlike) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  ModelConfig model = small_model();
  model.hidden_size = 192;  // heads of 32
  model.rope_scaling = {"llama3", 8, 1, 4, 64};
  write_config_json(directory.path(), model, -1);
  const std::string printed = run_python(directory, R"(
import sys
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
print(*LlamaRotaryEmbedding(AutoConfig.from_pretrained(sys.argv[1])).inv_freq.tolist())
)",
                                         directory.path());
  std::istringstream theirs(printed);
  const RopeFrequencies ours = rope_frequencies(model), plain{.theta = model.rope_theta};
  int kept = 0, between = 0, divided = 0;
  for (std::int64_t i = 0; i < 16; ++i) {
    double expected = 0;
    ASSERT_TRUE(theirs >> expected) << printed;
    EXPECT_NEAR(ours.at(i, 32), expected, 1e-6 * expected) << i;  // it computes in fp32, a few roundings
    const double ratio = plain.at(i, 32) / ours.at(i, 32);
    ++(ratio == 1 ? kept : ratio < 7.999 ? between : divided);
  }
  EXPECT_TRUE(kept > 0 && between > 0 && divided > 0);
}

constexpr const char* kReadWithTransformers = R"(
import sys
import torch
from transformers import AutoModelForCausalLM

KEYS = {
    "llama": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "head_dim", "max_position_embeddings", "rms_norm_eps", "initializer_range", "tie_word_embeddings", "hidden_act",
              "attention_bias", "mlp_bias", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id"),
    "gpt2": ("vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "initializer_range",
             "tie_word_embeddings", "activation_function", "attn_pdrop", "resid_pdrop", "embd_pdrop", "scale_attn_weights",
             "scale_attn_by_inverse_layer_idx", "bos_token_id", "eos_token_id", "pad_token_id"),
}

def describe(path):
    model, report = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    config = model.config
    for key in KEYS[config.model_type]:
        print(key, getattr(config, key))
    if config.model_type == "llama":
        rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}
        print("rope_theta", rope["rope_theta"])
    print("class", type(model).__name__, model.dtype)
    print("problems", [sorted(v) for k, v in sorted(report.items()) if k != "error_msgs" and v])
    print("all ones", all(bool((p == 1).all()) for p in model.parameters()))
    print(*[f"{name} {list(tensor.shape)}" for name, tensor in model.state_dict().items()
            if not (config.tie_word_embeddings and name == "lm_head.weight")], sep="\n")

for name in ("untied", "tied", "gpt2_untied", "gpt2_tied"):
    describe(f"{sys.argv[1]}/{name}")
)";

// What transformers says of any export: its tensors, in its order, are those of the file.
std::string expected_ending(const ModelConfig& model, const char* name) {
  std::string text = fmt::format("class {} torch.float32\nproblems []\nall ones True\n", name);
  for (const TensorEntry& entry : file_entries(backbone_entries(model))) text += entry.name + " " + to_text(entry.shape) + "\n";
  return text;
}

std::string expected_llama(bool tied) {
  return fmt::format(
             "vocab_size 50\nhidden_size 24\nintermediate_size 40\nnum_hidden_layers 3\nnum_attention_heads 6\nnum_key_value_heads 2\n"
             "head_dim 4\nmax_position_embeddings 32\nrms_norm_eps 1e-06\ninitializer_range 0.03\ntie_word_embeddings {}\n"
             "hidden_act silu\nattention_bias False\nmlp_bias False\nattention_dropout 0.0\nbos_token_id None\neos_token_id 7\n"
             "pad_token_id None\nrope_theta 5000.0\n",
             tied ? "True" : "False") +
         expected_ending(small_model(tied), "LlamaForCausalLM");
}

std::string expected_gpt2(bool tied) {
  return fmt::format(
             "vocab_size 50\nn_embd 20\nn_inner 36\nn_layer 2\nn_head 4\nn_positions 32\nlayer_norm_epsilon 1e-06\n"
             "initializer_range 0.03\ntie_word_embeddings {}\nactivation_function gelu_new\nattn_pdrop 0.25\nresid_pdrop 0.5\n"
             "embd_pdrop 0.5\nscale_attn_weights True\nscale_attn_by_inverse_layer_idx False\nbos_token_id None\neos_token_id 7\n"
             "pad_token_id None\n",
             tied ? "True" : "False") +
         expected_ending(small_gpt2(tied), "GPT2LMHeadModel");
}

TEST(HuggingFace, TransformersReadsIt) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  for (const bool tied : {false, true}) {
    const std::string name = tied ? "tied" : "untied";
    write_export(directory / name, small_model(tied), all_exits(), 1);
    write_export(directory / ("gpt2_" + name), small_gpt2(tied), all_exits(), 1);
  }
  EXPECT_EQ(run_python(directory, kReadWithTransformers, directory.path()),
            expected_llama(false) + expected_llama(true) + expected_gpt2(false) + expected_gpt2(true));
}

}  // namespace
}  // namespace offramp::testing
