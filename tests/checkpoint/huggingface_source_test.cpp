// What HuggingFaceSource makes of our exports, of what transformers saves, and of files that are not what they should be.
#include "checkpoint/huggingface_source.h"

#include <gtest/gtest.h>

#include "checkpoint/export_source.h"
#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;

void export_numbered(const std::string& directory, const ModelConfig& model, const std::vector<ExitSpec>& exits,
                     FloatType type = FloatType::f32, std::uint64_t shard_bytes = 0) {
  NumberedSource source(model, exits);
  export_source(source, model, {.directory = directory, .exits = exits, .end_token = 7, .type = type, .max_shard_bytes = shard_bytes});
}

std::vector<ModelConfig> small_models() {
  std::vector<ModelConfig> models = {small_model(), small_model(true), small_gpt2(), small_gpt2(true)};
  for (ModelConfig& model : models) model.num_hidden_layers = 3;  // of every exit
  return models;
}

TEST(HuggingFaceSource, ReadsWhatIsExported) {
  for (const ModelConfig& model : small_models()) {
    const auto exits = all_exits();
    const auto expected = NumberedSource(model, exits).entries();
    for (const auto& [type, bits] : {std::pair{FloatType::f32, 24}, {FloatType::f16, 11}, {FloatType::bf16, 8}}) {
      TemporaryDirectory directory;
      export_numbered(directory / "hf", model, exits, type, type == FloatType::f16 ? 5000 : 0);
      EXPECT_EQ(fs::exists(directory / "hf/model.safetensors.index.json"), type == FloatType::f16);
      HuggingFaceSource source(directory / "hf");
      EXPECT_EQ(source.end_token(), 7);
      ASSERT_EQ(source.exits().size(), 3u);
      EXPECT_EQ(source.exits()[0].head, HeadKind::mlp);
      EXPECT_TRUE(source.exits()[0].shared_norm && !source.exits()[0].shared_output && source.exits()[2].shared_output);
      expect_numbered(source, expected, bits);
    }
  }
}

TEST(HuggingFaceSource, ExportsAreTheSameBytesAgain) {
  for (const ModelConfig& model : small_models()) {
    TemporaryDirectory directory;
    export_numbered(directory / "a", model, all_exits());
    HuggingFaceSource source(directory / "a");
    export_source(source, source.config(), {.directory = directory / "b", .exits = source.exits(), .end_token = source.end_token()});
    for (const char* file : {"config.json", "model.safetensors", "exits.json", "exits.safetensors"})
      EXPECT_EQ(read_bytes(directory / "a/" + file), read_bytes(directory / "b/" + file)) << file;
  }
}

// ---- names and shapes

std::string open_error(const std::string& directory) {
  return checkpoint_error([&] { HuggingFaceSource source(directory); });
}

struct Renamed {
  std::vector<TensorEntry> entries;
  std::function<float(const std::string& name, std::int64_t i)> value = [](const std::string&, std::int64_t) { return 1.0f; };
  void write(const std::string& path) const {
    SafetensorsWriter writer(path, entries);
    for (const TensorEntry& entry : entries) {
      std::vector<float> values(static_cast<std::size_t>(entry.shape.elements()));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(entry.name, static_cast<std::int64_t>(i));
      writer.write(values);
    }
    writer.finish();
  }
};

TEST(HuggingFaceSource, NamesMayLackTheBasesPrefix) {
  for (const ModelConfig& model : {small_model(true), small_gpt2(true)}) {
    TemporaryDirectory directory;
    write_export(directory / "hf", model, {}, 1);
    fs::remove(directory / "hf/exits.json");
    fs::remove(directory / "hf/exits.safetensors");
    Renamed file{file_entries(backbone_entries(model))};
    const std::string prefix = model.gpt2() ? "transformer." : "model.";
    for (TensorEntry& entry : file.entries) entry.name = entry.name.substr(prefix.size());
    if (model.gpt2()) file.entries.push_back({"h.0.attn.bias", {1, 1, 32, 32}});  // a buffer, as the first files have
    file.write(directory / "hf/model.safetensors");
    HuggingFaceSource source(directory / "hf");
    EXPECT_TRUE(source.exits().empty());
    EXPECT_EQ(source.entries().size(), logical_entries(backbone_entries(model)).size());
  }
}

TEST(HuggingFaceSource, WhatIsMissingUnexpectedOrOfAnotherShapeIsNamed) {
  TemporaryDirectory directory;
  const ModelConfig model = small_model();
  write_export(directory / "hf", model, {}, 1);
  const std::string path = directory / "hf/model.safetensors";
  Renamed file{file_entries(backbone_entries(model))};
  const auto says = [&](std::size_t i, const TensorEntry& other, std::initializer_list<const char*> parts) {
    Renamed changed = file;
    changed.entries[i] = other;
    changed.write(path);
    const std::string text = open_error(directory / "hf");
    EXPECT_NE(text.find(path), std::string::npos) << text;
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const std::string norm = "model.layers.1.input_layernorm.weight";
  const auto it = std::find_if(file.entries.begin(), file.entries.end(), [&](const TensorEntry& entry) { return entry.name == norm; });
  const auto at = static_cast<std::size_t>(it - file.entries.begin());
  says(at, {"model.layers.1.input_layer_norm.weight", {24}},
       {("'" + norm + "' is missing").c_str(), "'model.layers.1.input_layer_norm.weight'"});
  says(at, {norm, {25}}, {"is [25]", "would be [24]"});
  says(at, {norm, {24, 1}}, {"is [24, 1]"});
  Renamed more = file;
  more.entries.push_back({"model.layers.1.self_attn.q_proj.bias", {24}});
  more.write(path);
  EXPECT_NE(open_error(directory / "hf").find("'model.layers.1.self_attn.q_proj.bias' is no tensor of this model"), std::string::npos);
  fs::remove(path);
  EXPECT_NE(open_error(directory / "hf").find("cannot open"), std::string::npos);
}

TEST(HuggingFaceSource, ATiedOutputMayBeRepeatedButNotDiffer) {
  TemporaryDirectory directory;
  const ModelConfig model = small_model(true);
  write_export(directory / "hf", model, {}, 1);
  Renamed file{file_entries(backbone_entries(model))};
  file.entries.push_back({"lm_head.weight", {model.vocab_size, model.hidden_size}});
  file.write(directory / "hf/model.safetensors");
  EXPECT_NO_THROW(HuggingFaceSource(directory / "hf"));
  file.value = [](const std::string& name, std::int64_t i) { return name == "lm_head.weight" && i == 1199 ? 2.0f : 1.0f; };
  file.write(directory / "hf/model.safetensors");
  EXPECT_NE(open_error(directory / "hf").find("'lm_head.weight' is not the embedding"), std::string::npos);
}

// ---- shards

TEST(HuggingFaceSource, ShardsLieInTheirDirectory) {
  TemporaryDirectory directory;
  export_numbered(directory / "hf", small_model(), {}, FloatType::f32, 4000);
  const std::string path = directory / "hf/model.safetensors.index.json", index = read_bytes(path);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = index;
    for (std::size_t at = changed.find(from); at != std::string::npos; at = changed.find(from, at + to.size()))
      changed.replace(at, from.size(), to);
    EXPECT_NE(changed, index) << from;
    write_bytes(path, changed);
    return open_error(directory / "hf");
  };
  const std::string first = "model-00001-of-" + index.substr(index.find("model-00001-of-") + 15, 5) + ".safetensors";
  fs::copy(directory / ("hf/" + first), directory / first);
  for (const std::string& elsewhere : {"../" + first, "./" + first, directory / first, "..\\\\" + first, first + "\\u0000"})
    EXPECT_NE(with(first, elsewhere).find("no safetensors file of this directory"), std::string::npos) << elsewhere;
  EXPECT_NE(with(first, "model-other.safetensors").find("cannot open"), std::string::npos);
  EXPECT_NE(with("\"weight_map\"", "\"weights\"").find("no weight_map"), std::string::npos);
  EXPECT_NE(with("\"model.norm.weight\"", "\"model.nom.weight\"").find("where it is not"), std::string::npos);
  EXPECT_NE(with("{", "[").find("is no JSON"), std::string::npos);
  fs::copy(directory / ("hf/" + first), directory / "hf/model-again.safetensors");
  write_bytes(path, R"({"weight_map":{"model.embed_tokens.weight":"model-again.safetensors","b":")" + first + "\"}}");
  EXPECT_NE(open_error(directory / "hf").find("is also in"), std::string::npos);
}

// ---- exits and counts

TEST(HuggingFaceSource, ExitsAreChecked) {
  TemporaryDirectory directory;
  write_export(directory / "hf", small_model(), all_exits(), 1);
  const auto with = [&](const std::string& text) {
    write_bytes(directory / "hf/exits.json", text);
    return open_error(directory / "hf");
  };
  const std::string one = R"({"layer": 1, "head": "norm", "output": "own", "norm": "own"})";
  const std::pair<std::string, const char*> wrong[] = {
      {R"({"exits": {}})", "no list of exits"},
      {R"({"exits": [], "more": 1})", "no list of exits"},
      {R"({"exits": [3]})", "is no exit"},
      {R"({"exits": [{"layer": 0, "head": "norm", "output": "own", "norm": "own"}]})", "no layer from 1 to 3"},
      {R"({"exits": [{"layer": 4, "head": "norm", "output": "own", "norm": "own"}]})", "no layer from 1 to 3"},
      {R"({"exits": [{"layer": 1, "head": "tree", "output": "own", "norm": "own"}]})", "no head of a known kind"},
      {R"({"exits": [{"layer": 1, "head": "norm", "output": "ours", "norm": "own"}]})", "no output that is own or shared"},
      {R"({"exits": [{"layer": 1, "head": "norm", "output": "own", "norm": "own", "scale": 2}]})", "unknown key 'scale'"},
      {R"({"exits": [)" + one + "," + one + "]}", "layer 1 has two exits"},
      {R"({"exits": [)" + one + "]}", "'exits.1.norm.weight' is missing"},
      {R"({"exits": []})", "is no tensor of this model"}};
  for (const auto& [text, says] : wrong) EXPECT_NE(with(text).find(says), std::string::npos) << text << ": " << with(text);
}

TEST(HuggingFaceSource, ACountOfLayersThatIsNoModelsMakesNoTable) {
  TemporaryDirectory directory;
  ModelConfig model = small_model();
  write_export(directory / "hf", model, {}, 1);
  model.num_hidden_layers = 2147483647;
  write_config_json(directory / "hf", model, -1);
  EXPECT_NE(open_error(directory / "hf").find("the files hold only"), std::string::npos);
}

// ---- transformers

// A model of random weights, saved in parts and in another type; the same in fp32, for the comparison.
constexpr const char* kSaveWithTransformers = R"(
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
sizes = dict(vocab_size=50, bos_token_id=None, eos_token_id=[7, 9])
rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}
def llama(tied):
    return LlamaForCausalLM(LlamaConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
                                        max_position_embeddings=32, rope_parameters=rope, tie_word_embeddings=tied, **sizes))
def gpt2(tied):
    return GPT2LMHeadModel(GPT2Config(n_embd=20, n_layer=2, n_head=4, n_positions=32, tie_word_embeddings=tied, **sizes))
for make in (llama, gpt2):
    for tied in (False, True):
        model = make(tied).to(torch.bfloat16)
        for p in model.parameters():
            p.data.normal_()
        model.save_pretrained(f"{sys.argv[1]}/{make.__name__}_{tied}", max_shard_size="6KB")
)";
constexpr const char* kCompareWithTransformers = R"(
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
for theirs in sorted(Path(sys.argv[1]).glob("*_*e")):
    a, b = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (theirs, f"{theirs}.ours"))
    assert len(list(theirs.glob("*.safetensors"))) > 1
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(a(tokens).logits, b(tokens).logits, rtol=0, atol=0)
    print(theirs.name, type(a).__name__)
)";

TEST(HuggingFaceSource, TransformersModelsComeThroughUnchanged) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  run_python(directory, kSaveWithTransformers, directory.path());
  for (const char* name : {"llama_False", "llama_True", "gpt2_False", "gpt2_True"}) {
    HuggingFaceSource source(directory / name);
    EXPECT_EQ(source.end_token(), 7);
    if (std::string_view(name).starts_with("llama")) {
      EXPECT_EQ(source.config().rope_scaling, (RopeScaling{"llama3", 8, 1, 4, 16}));
      EXPECT_EQ(source.config().rope_theta, 500);
    }
    export_source(source, source.config(), {.directory = directory / name + ".ours"});
  }
  EXPECT_EQ(run_python(directory, kCompareWithTransformers, directory.path()),
            "gpt2_False GPT2LMHeadModel\ngpt2_True GPT2LMHeadModel\nllama_False LlamaForCausalLM\nllama_True LlamaForCausalLM\n");
}

}  // namespace
}  // namespace offramp::testing
