#include "checkpoint/huggingface_config.h"

#include <gtest/gtest.h>

#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

const std::string kLlama = R"("model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
  "num_attention_heads": 6, "vocab_size": 50)";
const std::string kGpt2 = R"("model_type": "gpt2", "n_embd": 20, "n_layer": 2, "n_head": 4, "vocab_size": 50)";

// With more keys than those above.
HuggingFaceConfig read(const std::string& keys, const std::string& more = "") {
  TemporaryDirectory directory;
  write_bytes(directory / "config.json", "{" + keys + (more.empty() ? "" : ", ") + more + "}");
  return read_config_json(directory.path());
}

std::string refused(const std::string& keys, const std::string& more) {
  return checkpoint_error([&] { read(keys, more); });
}

void expect_equal(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.rope_scaling, b.rope_scaling);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.layer_norm_epsilon, b.layer_norm_epsilon);
  EXPECT_EQ(a.attention_dropout, b.attention_dropout);
  EXPECT_EQ(a.hidden_dropout, b.hidden_dropout);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.initializer_range, b.initializer_range);
}

TEST(ConfigJson, WhatIsWrittenReadsBack) {
  TemporaryDirectory directory;
  for (ModelConfig model : {small_model(), small_model(true), small_gpt2(), small_gpt2(true)}) {
    for (const bool stretched : {false, true}) {
      if (stretched && !model.gpt2()) model.rope_scaling = {"llama3", 32, 1.5, 5, 64};
      write_config_json(directory.path(), model, 7);
      const HuggingFaceConfig back = read_config_json(directory.path());
      expect_equal(back.model, model);
      EXPECT_EQ(back.end_token, 7);
    }
  }
}

TEST(ConfigJson, HeadsMayHaveASizeOfTheirOwn) {
  TemporaryDirectory directory;
  ModelConfig model = small_model();
  model.head_dim = 10;
  write_config_json(directory.path(), model, 7);
  EXPECT_EQ(read_config_json(directory.path()).model, model);
  EXPECT_EQ(read(kLlama, R"("head_dim": 4)").model, read(kLlama).model);
  EXPECT_EQ(read(R"("model_type": "llama", "hidden_size": 25, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
    "vocab_size": 50)",
                 R"("head_dim": 8)")
                .model.head_size(),
            8);
  ModelConfig gpt2 = small_gpt2();
  gpt2.head_dim = 6;
  EXPECT_NE(checkpoint_error([&] { write_config_json(directory.path(), gpt2, 7); }).find("4 heads of 6 make 24, not the hidden size 20"),
            std::string::npos);
}

TEST(ConfigJson, DefaultsAreTransformers) {
  const ModelConfig llama = read(kLlama).model, gpt2 = read(kGpt2).model;
  EXPECT_EQ(llama.num_key_value_heads, 6);
  EXPECT_EQ(llama.max_position_embeddings, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.rope_theta, 10000);
  EXPECT_FALSE(llama.tie_word_embeddings);
  EXPECT_EQ(gpt2.intermediate_size, 80);
  EXPECT_EQ(gpt2.max_position_embeddings, 1024);
  EXPECT_EQ(gpt2.hidden_dropout, 0.1);
  EXPECT_TRUE(gpt2.tie_word_embeddings);
  EXPECT_EQ(read(kLlama, R"("eos_token_id": [3, 4])").end_token, 3);
  EXPECT_EQ(read(kLlama, R"("eos_token_id": 50)").end_token, -1);  // beyond the vocabulary: somebody else's
}

TEST(ConfigJson, HarmlessKeysPass) {
  EXPECT_NO_THROW(read(kLlama, R"("_name_or_path": "x", "transformers_version": "4.46.0", "use_cache": false, "pretraining_tp": 2,
    "pad_token_id": 0, "torch_dtype": "bfloat16", "hidden_act": "silu", "head_dim": 4, "attention_bias": false, "mlp_bias": null,
    "rope_scaling": null, "sliding_window": null, "architectures": ["LlamaForCausalLM"], "is_llama_config": true,
    "rope_interleaved": false, "transformers.js_config": {"dtype": "q4"}, "something_new": false, "other_new": {}, "rope_theta": 10000)"));
  EXPECT_NO_THROW(read(kGpt2, R"("activation_function": "gelu_new", "n_ctx": 1024, "summary_type": "cls_index", "n_inner": null,
    "reorder_and_upcast_attn": true, "scale_attn_weights": true, "task_specific_params": {"text-generation": {"do_sample": true}})"));
}

TEST(ConfigJson, KeysThatChangeTheFunctionAreRefusedByName) {
  const std::pair<const char*, const char*> llama[] = {
      {"hidden_act", R"("gelu")"},
      {"attention_bias", "true"},
      {"mlp_bias", "true"},
      {"sliding_window", "4096"},
      {"head_dim", "5"},
      {"head_dim", "0"},
      {"head_dim", "268435456"},
      {"partial_rotary_factor", "0.5"},
      {"quantization_config", R"({"quant_method": "gptq"})"},
      {"rope_interleaved", "true"},
      {"layer_types", R"(["sliding_attention"])"},
      {"auto_map", R"({"AutoModel": "modeling.Model"})"},
      {"architectures", R"(["LlamaForSequenceClassification"])"},
      {"rope_scaling", R"({"rope_type": "yarn", "factor": 4.0})"},
      {"rope_scaling", R"({"type": "linear", "factor": 2.0})"},
      {"rope_scaling", R"({"rope_type": "llama3", "factor": 4.0})"},
      {"rope_scaling", R"({"rope_type": "llama3", "factor": 0.5, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 64})"},
      {"rope_scaling", R"({"rope_type": "default", "beta_fast": 4.0})"},
      {"rope_scaling", "3"},
      {"rope_parameters", R"({"rope_type": "default", "rope_theta": 1.0, "partial_rotary_factor": 0.5})"},
      {"logits_scaling", "8.0"},
      {"num_local_experts", "8"},
      {"num_key_value_heads", "4"},
      {"num_key_value_heads", "-1"},
      {"vocab_size_", "18446744073709551615"},
      {"rms_norm_eps", "0"},
      {"tie_word_embeddings", "1"}};
  for (const auto& [key, value] : llama) {
    const std::string text = refused(kLlama, fmt::format("\"{}\": {}", key, value));
    EXPECT_NE(text.find(fmt::format("config.json: {}", key)), std::string::npos) << key << ": " << text;
  }
  const std::pair<const char*, const char*> gpt2[] = {{"activation_function", R"("gelu")"},
                                                      {"scale_attn_weights", "false"},
                                                      {"scale_attn_by_inverse_layer_idx", "true"},
                                                      {"embd_pdrop", "0.2"},
                                                      {"rope_theta", "10000.0"},
                                                      {"add_cross_attention", "true"}};
  for (const auto& [key, value] : gpt2) {
    const std::string text = refused(kGpt2, fmt::format("\"{}\": {}", key, value));
    EXPECT_NE(text.find(fmt::format("config.json: {}", key)), std::string::npos) << key << ": " << text;
  }
  EXPECT_NE(refused(R"("model_type": "mistral")", R"("vocab_size": 3)").find("'mistral' is not read"), std::string::npos);
  EXPECT_NE(refused(R"("model_type": "llama")", R"("vocab_size": 3)").find("num_hidden_layers: is missing"), std::string::npos);
}

TEST(ConfigJson, SizesThatNoModelHasAreRefused) {
  for (const char* size : {"0", "-5", "1.5", "\"8\"", "2147483648", "18446744073709551615", "1e30"}) {
    const std::string text = refused(R"("model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
      "num_attention_heads": 6)",
                                     fmt::format("\"vocab_size\": {}", size));
    EXPECT_NE(text.find("vocab_size: expected a whole number from 1 to 2147483647"), std::string::npos) << text;
  }
}

TEST(ConfigJson, BothFormsOfRotationsAreReadAndMustAgree) {
  const std::string settings = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64)";
  const RopeScaling expected{"llama3", 8, 1, 4, 64};
  const std::string old_form = R"("rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", )" + settings + "}";
  const std::string new_form = R"("rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, )" + settings + "}";
  for (const std::string& keys : {old_form, new_form, old_form + ", " + new_form}) {
    const ModelConfig model = read(kLlama, keys).model;
    EXPECT_EQ(model.rope_scaling, expected);
    EXPECT_EQ(model.rope_theta, 500000);
  }
  EXPECT_EQ(read(kLlama, R"("rope_parameters": {"rope_type": "default", "rope_theta": 77.0})").model.rope_theta, 77);
  EXPECT_NE(refused(kLlama, R"("rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 6.0})").find("contradicts"),
            std::string::npos);
  EXPECT_NE(refused(kLlama, old_form + R"(, "rope_parameters": {"rope_type": "default"})").find("contradicts"), std::string::npos);
}

TEST(ConfigJson, DamagedFilesAreRefused) {
  EXPECT_NE(refused(R"("a": 1)", R"("a": 1)").find("'a' stands twice"), std::string::npos);
  EXPECT_NE(refused(R"("a": [)", "").find("is no JSON"), std::string::npos);
  EXPECT_NE(refused(R"("a": )" + std::string(100000, '['), "").find("nested too deeply"), std::string::npos);
  EXPECT_NE(checkpoint_error([] { read_config_json("/nowhere"); }).find("cannot open"), std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
