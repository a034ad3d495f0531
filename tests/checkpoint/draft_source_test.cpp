// Which tensor of the whole model each of a draft's is.
#include "checkpoint/draft_source.h"

#include <gtest/gtest.h>

#include "models/names.h"
#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

struct Draft {
  Draft(const ModelConfig& whole_model, ExitSpec exit)
      : model(whole_model), exits{exit}, whole(model, exits), draft(whole, model, exits, exit.layer) {}

  // The tensor of the whole model that a tensor of the draft equals; of equal values everywhere, the value.
  std::string origin(const std::string& name) {
    const auto entries = draft.entries();
    const auto it = std::find_if(entries.begin(), entries.end(), [&](const TensorEntry& entry) { return entry.name == name; });
    if (it == entries.end()) return "not there";
    std::vector<float> values(static_cast<std::size_t>(it->shape.elements() - 1)), other(values.size());
    draft.read(name, 1, static_cast<std::int64_t>(values.size()), values.data());
    for (const TensorEntry& entry : whole.entries()) {
      if (entry.shape != it->shape) continue;
      whole.read(entry.name, 1, static_cast<std::int64_t>(other.size()), other.data());
      if (other == values) return entry.name;
    }
    const bool constant = std::all_of(values.begin(), values.end(), [&](float v) { return v == values.front(); });
    return constant ? fmt::format("all {}", values.front()) : "none";
  }
  // Tensors that are not those of the same name.
  std::vector<std::string> changes() {
    std::vector<std::string> lines;
    for (const TensorEntry& entry : draft.entries())
      if (const std::string from = origin(entry.name); from != entry.name) lines.push_back(entry.name + " <- " + from);
    return lines;
  }

  ModelConfig model;
  std::vector<ExitSpec> exits;
  NumberedSource whole;
  DraftSource draft;
};

TEST(DraftSource, NormTakesTheExitsNormAndOutput) {
  Draft own(small_model(), {.layer = 2, .head = HeadKind::norm});
  EXPECT_EQ(own.draft.config().num_hidden_layers, 2);
  EXPECT_EQ(own.changes(), (std::vector<std::string>{"model.norm.weight <- exits.2.norm.weight", "lm_head.weight <- exits.2.head.weight"}));
  EXPECT_EQ(own.origin("model.layers.2.mlp.up_proj.weight"), "not there");
  Draft shared(small_model(), {.layer = 2, .shared_output = true, .shared_norm = true});
  EXPECT_TRUE(shared.changes().empty());
}

TEST(DraftSource, ATiedMatrixStaysOneWhereTheExitSharesIt) {
  Draft shared(small_model(true), {.layer = 1, .shared_output = true});
  EXPECT_TRUE(shared.draft.config().tie_word_embeddings);
  EXPECT_EQ(shared.origin("lm_head.weight"), "not there");
  Draft own(small_model(true), {.layer = 1});
  EXPECT_FALSE(own.draft.config().tie_word_embeddings);
  EXPECT_EQ(own.origin("lm_head.weight"), "exits.1.head.weight");
  EXPECT_EQ(own.origin("model.embed_tokens.weight"), "model.embed_tokens.weight");
}

TEST(DraftSource, MlpReplacesTheLayersOwn) {
  Draft d(small_model(), {.layer = 3, .head = HeadKind::mlp, .shared_output = true, .shared_norm = true});
  EXPECT_EQ(d.draft.config().num_hidden_layers, 3);
  EXPECT_EQ(d.changes(), (std::vector<std::string>{"model.layers.2.mlp.gate_proj.weight <- exits.3.mlp.gate_proj.weight",
                                                   "model.layers.2.mlp.up_proj.weight <- exits.3.mlp.up_proj.weight",
                                                   "model.layers.2.mlp.down_proj.weight <- exits.3.mlp.down_proj.weight"}));
}

TEST(DraftSource, BlockIsOneMoreLayer) {
  Draft d(small_model(), {.layer = 3, .head = HeadKind::block, .shared_output = true});
  EXPECT_EQ(d.draft.config().num_hidden_layers, 4);
  const auto changes = d.changes();
  EXPECT_EQ(changes.size(), 10u);
  for (const std::string& line : changes) {
    const std::string below = line.substr(line.rfind("<- ") + 3);
    EXPECT_TRUE(line == "model.norm.weight <- exits.3.norm.weight" || line == "model.layers.3." + below.substr(14) + " <- " + below)
        << line;
  }
}

TEST(DraftSource, AttentionIsALayerWhoseMlpAddsNothing) {
  Draft d(small_model(), {.layer = 1, .head = HeadKind::attention});
  EXPECT_EQ(d.draft.config().num_hidden_layers, 2);
  EXPECT_EQ(d.origin("model.layers.1.self_attn.o_proj.weight"), "exits.1.block.self_attn.o_proj.weight");
  EXPECT_EQ(d.origin("model.layers.1.input_layernorm.weight"), "exits.1.block.input_layernorm.weight");
  EXPECT_EQ(d.origin("model.layers.1.post_attention_layernorm.weight"), "all 1");
  for (const char* name : {"gate", "up", "down"}) EXPECT_EQ(d.origin(fmt::format("model.layers.1.mlp.{}_proj.weight", name)), "all 0");
}

TEST(DraftSource, Gpt2HasBiases) {
  Draft d(small_gpt2(true), {.layer = 2, .head = HeadKind::attention, .shared_output = true});
  EXPECT_EQ(d.draft.config().num_hidden_layers, 3);
  EXPECT_EQ(d.origin("transformer.h.2.attn.q_proj.bias"), "exits.2.block.attn.q_proj.bias");
  EXPECT_EQ(d.origin("transformer.ln_f.bias"), "exits.2.norm.bias");
  EXPECT_EQ(d.origin("transformer.h.2.ln_2.weight"), "all 1");
  for (const char* name : {"ln_2.bias", "mlp.c_proj.weight", "mlp.c_proj.bias", "mlp.c_fc.bias"})
    EXPECT_EQ(d.origin(std::string("transformer.h.2.") + name), "all 0") << name;
}

TEST(DraftSource, RefusesWhatHasNoSuchForm) {
  const std::string bare = checkpoint_error([] { Draft(small_model(), {.layer = 2, .head = HeadKind::bare}); });
  EXPECT_NE(bare.find("the exit at layer 2 is bare"), std::string::npos) << bare;
  const std::vector<ExitSpec> exits = all_exits();
  NumberedSource source(small_model(), exits);
  const std::string absent = checkpoint_error([&] { DraftSource(source, small_model(), {}, 1); });
  EXPECT_NE(absent.find("no exit at layer 1; the model has exits at: none"), std::string::npos) << absent;
  ModelConfig deeper = small_model();
  deeper.num_hidden_layers = 9;
  EXPECT_NE(checkpoint_error([&] { DraftSource(source, deeper, exits, 9); }).find("exits at: 3, 1, 2"), std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
