// Llamas and tokenizers through GGUF files: what we write we read, and both mean what llama.cpp means.
#include <gtest/gtest.h>

#include "checkpoint/draft_source.h"
#include "checkpoint/gguf_source.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/gguf_writer.h"
#include "data/hugging_face.h"
#include "data/tokenizer.h"
#include "models/names.h"
#include "tests/checkpoint/gguf_bytes.h"
#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

GgufVocabulary small_vocabulary() {
  GgufVocabulary v{.model = "gpt2", .pre = "smollm"};
  for (int i = 0; i < 48; ++i)
    v.tokens.push_back(fmt::format("t{}", i)), v.types.push_back(i == 0 ? GgufVocabulary::control : GgufVocabulary::normal);
  v.merges = {"t 1", "t 2"};
  v.bos = v.eos = 0;
  v.chat_template = "{{ messages }}";
  return v;
}

TEST(Gguf, WhatIsWrittenReadsBack) {
  TemporaryDirectory directory;
  for (const bool tied : {false, true}) {
    for (const auto& [type, bits] : {std::pair{FloatType::f32, 24}, {FloatType::f16, 11}, {FloatType::bf16, 8}}) {
      ModelConfig model = small_model(tied);
      if (tied) model.rope_scaling = {"llama3", 16, 1.5, 5, 64};
      NumberedSource source(model, {});
      write_gguf(directory / "m.gguf", model, source, small_vocabulary(), type);
      GgufSource back(directory / "m.gguf");
      expect_numbered(back, source.entries(), bits);
      const ModelConfig& config = back.config();
      EXPECT_EQ(config.num_hidden_layers, 3);
      EXPECT_EQ(config.intermediate_size, 40);
      EXPECT_EQ(config.num_attention_heads, 6);
      EXPECT_EQ(config.num_key_value_heads, 2);
      EXPECT_EQ(config.vocab_size, 50);
      EXPECT_EQ(config.max_position_embeddings, 32);
      EXPECT_EQ(config.rope_theta, 5000);
      EXPECT_EQ(config.rms_norm_eps, 1e-6);
      EXPECT_EQ(config.rope_scaling, model.rope_scaling);
      EXPECT_EQ(config.tie_word_embeddings, tied);
      const GgufVocabulary& v = back.vocabulary();
      EXPECT_EQ(v.model + v.pre + v.chat_template, "gpt2smollm{{ messages }}");
      EXPECT_EQ(v.tokens.size(), 50u);
      EXPECT_EQ(v.tokens[49], "[PAD49]");
      EXPECT_EQ(v.types[49], GgufVocabulary::unused);
      EXPECT_EQ(v.types[0], GgufVocabulary::control);
      EXPECT_EQ(v.merges, small_vocabulary().merges);
      EXPECT_TRUE(v.scores.empty() && v.bos == 0 && v.eos == 0 && v.unknown == -1 && !v.add_bos && !v.add_eos);
    }
  }
}

TEST(Gguf, HeadsMayHaveASizeOfTheirOwn) {
  TemporaryDirectory directory;
  ModelConfig model = small_model();
  model.head_dim = 10;
  NumberedSource source(model, {});
  write_gguf(directory / "m.gguf", model, source, {});
  GgufSource back(directory / "m.gguf");
  expect_numbered(back, source.entries());
  EXPECT_EQ(back.config().head_dim, 10);
  const GgufFile file(directory / "m.gguf");
  EXPECT_EQ(file.find("blk.0.attn_q.weight")->shape, (Shape{60, 24}));
  EXPECT_EQ(file.find("blk.0.attn_output.weight")->shape, (Shape{24, 60}));
  for (const char* key : {"llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"})
    EXPECT_EQ(std::get<std::int64_t>(file.metadata().at(key)), 10) << key;
}

// Row 2i + a of a head there is row a d/2 + i here: W.reshape(heads, 2, d/2, in).swapaxes(1, 2).
TEST(Gguf, RotatingPairsStandSideBySide) {
  TemporaryDirectory directory;
  const ModelConfig model = small_model();  // heads of 4 rows
  NumberedSource source(model, {});
  write_gguf(directory / "m.gguf", model, source, {});
  const GgufFile file(directory / "m.gguf");
  const std::int64_t order[] = {0, 2, 1, 3};
  for (const auto& [there, here, rows] : {std::tuple{"blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 24},
                                          {"blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", 8}}) {
    std::vector<float> values(static_cast<std::size_t>(rows) * 24);
    file.read(*file.find(there), 0, values);
    for (std::int64_t row = 0; row < rows; ++row)
      EXPECT_EQ(values[static_cast<std::size_t>(row * 24 + 5)], numbered(here, (row / 4 * 4 + order[row % 4]) * 24 + 5)) << row;
  }
  EXPECT_EQ(file.find("blk.1.attn_v.weight")->shape, (Shape{8, 24}));
  EXPECT_EQ(std::get<std::string>(file.metadata().at("tokenizer.ggml.model")), "no_vocab");
}

TEST(Gguf, NormsStayInF32) {
  TemporaryDirectory directory;
  NumberedSource source(small_model(), {});
  write_gguf(directory / "m.gguf", small_model(), source, {}, FloatType::bf16);
  const GgufFile file(directory / "m.gguf");
  for (const auto& tensor : file.tensors())
    EXPECT_EQ(std::string(tensor.type->name), tensor.shape.rank == 1 ? "F32" : "BF16") << tensor.name;
}

TEST(Gguf, ADraftIsAModel) {
  TemporaryDirectory directory;
  const auto exits = all_exits();
  NumberedSource source(small_model(), exits);
  DraftSource draft(source, small_model(), exits, 2);
  write_gguf(directory / "m.gguf", draft.config(), draft, small_vocabulary());
  GgufSource back(directory / "m.gguf");
  EXPECT_EQ(back.config().num_hidden_layers, 3);
  std::vector<float> values(24);
  back.read("model.norm.weight", 0, 24, values.data());
  EXPECT_EQ(values[3], numbered("exits.2.norm.weight", 3));
}

TEST(Gguf, WhatHasNoPlaceThereIsRefused) {
  TemporaryDirectory directory;
  NumberedSource gpt2(small_gpt2(), {}), llama(small_model(), {});
  EXPECT_NE(checkpoint_error([&] { write_gguf(directory / "m", small_gpt2(), gpt2, {}); }).find("only Llamas"), std::string::npos);
  GgufVocabulary large = small_vocabulary();
  large.tokens.resize(51), large.types.resize(51);
  EXPECT_NE(checkpoint_error([&] { write_gguf(directory / "m", small_model(), llama, large); }).find("51 tokens"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(directory / "m"));
}

// A file of one layer, by hand; each change is refused by name.
struct OneLayer {
  std::map<std::string, std::string> keys = {
      {"general.architecture", gguf_word("general.architecture", "llama")},
      {"llama.block_count", gguf_u32("llama.block_count", 1)},
      {"llama.embedding_length", gguf_u32("llama.embedding_length", 8)},
      {"llama.feed_forward_length", gguf_u32("llama.feed_forward_length", 12)},
      {"llama.context_length", gguf_u32("llama.context_length", 16)},
      {"llama.attention.head_count", gguf_u32("llama.attention.head_count", 2)},
      {"llama.attention.layer_norm_rms_epsilon", gguf_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f)}};
  std::map<std::string, std::vector<std::uint64_t>> tensors = {
      {"token_embd.weight", {8, 5}},    {"output_norm.weight", {8}},          {"blk.0.attn_norm.weight", {8}},
      {"blk.0.ffn_norm.weight", {8}},   {"blk.0.attn_q.weight", {8, 8}},      {"blk.0.attn_k.weight", {8, 8}},
      {"blk.0.attn_v.weight", {8, 8}},  {"blk.0.attn_output.weight", {8, 8}}, {"blk.0.ffn_gate.weight", {8, 12}},
      {"blk.0.ffn_up.weight", {8, 12}}, {"blk.0.ffn_down.weight", {12, 8}}};
  std::string error() const {
    TemporaryDirectory directory;
    GgufBytes made;
    for (const auto& [key, value] : keys) made.keys.push_back(value);
    for (const auto& [name, sizes] : tensors) {
      std::uint64_t bytes = 4;
      for (const std::uint64_t size : sizes) bytes *= size;
      made.tensors.push_back(gguf_tensor(name, sizes, 0, made.data.size()));
      made.data.resize((made.data.size() + bytes + 31) / 32 * 32, '\0');
    }
    write_bytes(directory / "m.gguf", made.bytes());
    return checkpoint_error([&] { GgufSource source(directory / "m.gguf"); });
  }
};

TEST(GgufSource, KeysThatChangeTheFunctionAreRefusedByName) {
  EXPECT_EQ(OneLayer().error(), "nothing was thrown");
  const std::string changes[] = {gguf_word("general.architecture", "qwen2"),
                                 gguf_word("general.type", "adapter"),
                                 gguf_u32("split.count", 2),
                                 gguf_u32("llama.block_count", 0),
                                 gguf_u32("llama.block_count", 4000000000),
                                 gguf_u32("llama.block_count", 2000000000),
                                 gguf_u32("llama.attention.head_count", 3),
                                 gguf_u32("llama.attention.head_count", 8),
                                 gguf_u32("llama.attention.head_count_kv", 5),
                                 gguf_word("llama.attention.head_count", "2"),
                                 gguf_f32("llama.attention.layer_norm_rms_epsilon", -1),
                                 gguf_u32("llama.rope.dimension_count", 2),
                                 gguf_u32("llama.attention.value_length", 2),
                                 gguf_u32("llama.attention.key_length", 1000000000),
                                 gguf_word("llama.rope.scaling.type", "yarn"),
                                 gguf_f32("llama.rope.scaling.factor", 2),
                                 gguf_u32("llama.expert_count", 8),
                                 gguf_u32("llama.attention.sliding_window", 128),
                                 gguf_f32("llama.logit_scale", 0.5f),
                                 gguf_u32("llama.vocab_size", 6)};
  for (const std::string& change : changes) {
    OneLayer file;
    const std::string key = change.substr(8, static_cast<std::size_t>(change[0]));
    file.keys[key] = change;
    const std::string text = file.error();
    EXPECT_NE(text.find(key == "llama.vocab_size" ? "token_embd.weight" : key), std::string::npos) << key << ": " << text;
  }
  for (const auto& [key, value] : OneLayer().keys) {
    OneLayer file;
    file.keys.erase(key);
    EXPECT_NE(file.error().find(key + ": is missing"), std::string::npos) << key;
  }
}

TEST(GgufSource, TensorsMustBeTheModels) {
  OneLayer missing, more, shaped, divided;
  missing.tensors.erase("blk.0.attn_k.weight");
  EXPECT_NE(missing.error().find("'blk.0.attn_k.weight' is missing; the nearest it has is 'blk.0.attn_"), std::string::npos);
  more.tensors["blk.0.attn_q.bias"] = {8};
  EXPECT_NE(more.error().find("'blk.0.attn_q.bias' is no tensor of this model"), std::string::npos);
  shaped.tensors["blk.0.ffn_down.weight"] = {8, 12};
  EXPECT_NE(shaped.error().find("'blk.0.ffn_down.weight' is [12, 8], by the file's keys it would be [8, 12]"), std::string::npos);
  divided.tensors["rope_freqs.weight"] = {2};  // zeros
  EXPECT_NE(divided.error().find("changes the rotary frequencies in another way"), std::string::npos);
}

TEST(GgufSource, TokensMustBeTheModels) {
  const auto list = [](std::uint64_t count) {
    std::string bytes = raw<std::uint32_t>(8) + raw(count);
    for (std::uint64_t i = 0; i < count; ++i) bytes += gguf_text(fmt::format("t{}", i));
    return gguf_key("tokenizer.ggml.tokens", 9, bytes);
  };
  OneLayer file;
  file.keys["model"] = gguf_word("tokenizer.ggml.model", "llama");
  file.keys["tokens"] = list(5);
  EXPECT_EQ(file.error(), "nothing was thrown");
  file.keys["eos"] = gguf_u32("tokenizer.ggml.eos_token_id", 5);
  EXPECT_NE(file.error().find("there is no token 5"), std::string::npos);
  file.keys.erase("eos");
  file.keys["scores"] = gguf_key("tokenizer.ggml.scores", 9, raw<std::uint32_t>(6) + raw<std::uint64_t>(1) + raw(1.0f));
  EXPECT_NE(file.error().find("1 values for 5 tokens"), std::string::npos);
  file.keys.erase("scores");
  file.keys["tokens"] = list(6);
  EXPECT_NE(file.error().find("6 tokens"), std::string::npos);
}

// ---- tokenizers

TEST(GgufTokenizer, TheByteTokenizerIsByteLevelWithoutMerges) {
  TemporaryDirectory directory;
  write_bytes(directory / "tokenizer.json", byte_tokenizer_json());
  const GgufVocabulary v = read_gguf_vocabulary(directory / "tokenizer.json");
  EXPECT_EQ(v.model + " " + v.pre, "gpt2 gpt-2");
  ASSERT_EQ(v.tokens.size(), 257u);
  EXPECT_TRUE(v.merges.empty());
  EXPECT_EQ(v.tokens[' '], "\u0120");
  EXPECT_EQ(v.tokens['\n'], "\u010A");
  EXPECT_EQ(v.tokens['a'], "a");
  EXPECT_EQ(v.tokens[0], "\u0100");
  EXPECT_EQ(v.tokens[0xAD], "\u0143");
  EXPECT_EQ(v.tokens[0xFF], "\u00FF");
  EXPECT_EQ(v.tokens[256], "</s>");
  EXPECT_EQ(v.types[256], GgufVocabulary::control);
  EXPECT_TRUE(v.eos == 256 && v.bos == -1 && !v.add_bos);
}

std::string byte_level_json(const std::string& pre_tokenizer, const std::string& more = "") {
  return R"({"added_tokens": [{"id": 3, "content": "<|end|>", "special": true}, {"id": 4, "content": "<x>", "special": false}],
    "normalizer": null, "pre_tokenizer": )" +
         pre_tokenizer + more + R"(, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})";
}

TEST(GgufTokenizer, PreTokenizersHaveLlamaCppsNames) {
  TemporaryDirectory directory;
  const std::string path = directory / "tokenizer.json";
  const auto pre = [&](const std::string& json) {
    write_bytes(path, json);
    return read_gguf_vocabulary(path).pre;
  };
  const std::string level = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  const std::string digits = R"({"type": "Digits", "individual_digits": true})";
  EXPECT_EQ(pre(byte_level_json(level)), "gpt-2");
  EXPECT_EQ(pre(byte_level_json(R"({"type": "Sequence", "pretokenizers": [)" + digits + "," + level + "]}")), "smollm");
  const auto refused = [&](const std::string& json) {
    write_bytes(path, json);
    return checkpoint_error([&] { read_gguf_vocabulary(path); });
  };
  EXPECT_NE(refused(byte_level_json(R"({"type": "Whitespace"})")).find("not byte-level"), std::string::npos);
  EXPECT_NE(refused(byte_level_json(R"({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"},)" + level + "]}"))
                .find("none that llama.cpp"),
            std::string::npos);
  EXPECT_NE(refused(R"({"model": {"type": "Unigram", "vocab": []}})").find("no BPE"), std::string::npos);
  EXPECT_NE(refused(R"({"model": {"type": "BPE", "vocab": {"a": 1000000}}})").find("ids have holes"), std::string::npos);
  EXPECT_NE(refused(R"({"model": {"type": "BPE", "vocab": {"a": -1}}})").find("is no id"), std::string::npos);
}

TEST(GgufTokenizer, ADirectoryHasSettingsBesideIt) {
  TemporaryDirectory directory;
  const std::string level = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})";
  write_bytes(directory / "tokenizer.json",
              byte_level_json(
                  level, R"(, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}]})"));
  write_bytes(directory / "tokenizer_config.json", R"({"eos_token": {"content": "<|end|>"}, "chat_template": "old"})");
  write_bytes(directory / "chat_template.jinja", "new");
  const GgufVocabulary v = read_gguf_vocabulary(directory.path());
  EXPECT_EQ(v.tokens, (std::vector<std::string>{"a", "b", "ab", "<|end|>", "<x>"}));
  EXPECT_EQ(v.types, (std::vector<std::int32_t>{1, 1, 1, 3, 4}));
  EXPECT_EQ(v.merges, std::vector<std::string>{"a b"});
  EXPECT_TRUE(v.bos == 3 && v.add_bos && v.eos == 3 && !v.add_eos);
  EXPECT_EQ(v.chat_template, "new");
}

}  // namespace
}  // namespace offramp::testing
