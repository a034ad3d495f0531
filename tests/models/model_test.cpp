// Names, shapes and initial values of a whole model.
#include "models/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <sstream>

#include "rig.h"
#include "tensor/check.h"

namespace offramp::testing {
namespace {

void visit_all(Model& model, const Visitor& visitor) {
  for (Unit& unit : model.units) unit.module->visit(visitor);
  for (Head& head : model.heads) head.visit(visitor);
}

// One line a logical tensor of each parameter: name, shape, writer.
std::string describe(const std::function<void(const Visitor&)>& visit) {
  std::ostringstream out;
  visit([&](Parameter& p) {
    for (const Piece& piece : p.pieces) {
      out << piece.name << " " << to_text(piece.global) << " " << std::array{"head", "unit", "lookup"}[static_cast<std::size_t>(p.writer)]
          << "\n";
    }
  });
  return out.str();
}

// Hidden 16, intermediate 24, four heads and two key-value heads of size 4, vocabulary 37.
TEST(Names, OfUnits) {
  Model model = build_model(tiny_config(), {});
  ASSERT_EQ(model.units.size(), 11u);
  const auto unit = [&](std::size_t i) { return describe([&](const Visitor& v) { model.units[i].module->visit(v); }); };
  EXPECT_EQ(unit(0), "model.embed_tokens.weight [37, 16] lookup\n");
  for (std::size_t layer = 0; layer < 5; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer);
    EXPECT_EQ(model.units[1 + 2 * layer].layer, static_cast<int>(layer) + 1);
    EXPECT_EQ(unit(1 + 2 * layer), prefix + ".input_layernorm.weight [16] unit\n" + prefix + ".self_attn.q_proj.weight [16, 16] unit\n" +
                                       prefix + ".self_attn.k_proj.weight [8, 16] unit\n" + prefix +
                                       ".self_attn.v_proj.weight [8, 16] unit\n" + prefix + ".self_attn.o_proj.weight [16, 16] unit\n");
    EXPECT_EQ(model.units[2 + 2 * layer].layer, static_cast<int>(layer) + 1);
    EXPECT_EQ(unit(2 + 2 * layer), prefix + ".post_attention_layernorm.weight [16] unit\n" + prefix +
                                       ".mlp.gate_proj.weight [24, 16] unit\n" + prefix + ".mlp.up_proj.weight [24, 16] unit\n" + prefix +
                                       ".mlp.down_proj.weight [16, 24] unit\n");
  }
}

TEST(Names, OfHeads) {
  Model model = build_model(tiny_config(), every_exit());
  ASSERT_EQ(model.heads.size(), 6u);
  const auto head = [&](std::size_t i) { return describe([&](const Visitor& v) { model.heads[i].visit(v); }); };
  EXPECT_EQ(head(0), "exits.1.head.weight [37, 16] head\n");
  EXPECT_EQ(head(1),
            "exits.2.norm.weight [16] head\n"
            "exits.2.head.weight [37, 16] head\n");
  EXPECT_EQ(head(2),
            "model.layers.2.post_attention_layernorm.weight [16] head\n"
            "exits.3.mlp.gate_proj.weight [24, 16] head\n"
            "exits.3.mlp.up_proj.weight [24, 16] head\n"
            "exits.3.mlp.down_proj.weight [16, 24] head\n"
            "exits.3.norm.weight [16] head\n"
            "exits.3.head.weight [37, 16] head\n");
  EXPECT_EQ(head(3),
            "exits.4.block.input_layernorm.weight [16] head\n"
            "exits.4.block.self_attn.q_proj.weight [16, 16] head\n"
            "exits.4.block.self_attn.k_proj.weight [8, 16] head\n"
            "exits.4.block.self_attn.v_proj.weight [8, 16] head\n"
            "exits.4.block.self_attn.o_proj.weight [16, 16] head\n"
            "exits.4.block.post_attention_layernorm.weight [16] head\n"
            "exits.4.block.mlp.gate_proj.weight [24, 16] head\n"
            "exits.4.block.mlp.up_proj.weight [24, 16] head\n"
            "exits.4.block.mlp.down_proj.weight [16, 24] head\n"
            "exits.4.norm.weight [16] head\n"
            "exits.4.head.weight [37, 16] head\n");
  EXPECT_EQ(head(4),
            "exits.5.block.input_layernorm.weight [16] head\n"
            "exits.5.block.self_attn.q_proj.weight [16, 16] head\n"
            "exits.5.block.self_attn.k_proj.weight [8, 16] head\n"
            "exits.5.block.self_attn.v_proj.weight [8, 16] head\n"
            "exits.5.block.self_attn.o_proj.weight [16, 16] head\n"
            "exits.5.norm.weight [16] head\n"
            "exits.5.head.weight [37, 16] head\n");
  EXPECT_EQ(head(5),
            "model.norm.weight [16] head\n"
            "lm_head.weight [37, 16] head\n");
}

// The names of transformers' GPT2LMHeadModel, but with q, k, v apart (c_attn in files) and every matrix [out, in].
TEST(Names, OfGpt2) {
  Model model = build_model(tiny_config("gpt2"), every_exit());
  const auto unit = [&](std::size_t i) { return describe([&](const Visitor& v) { model.units[i].module->visit(v); }); };
  const auto head = [&](std::size_t i) { return describe([&](const Visitor& v) { model.heads[i].visit(v); }); };
  const auto attention = [](const std::string& prefix, const std::string& writer) {
    std::string lines;
    for (const char* line : {".ln_1.weight [16]", ".ln_1.bias [16]", ".attn.q_proj.weight [16, 16]", ".attn.k_proj.weight [16, 16]",
                             ".attn.v_proj.weight [16, 16]", ".attn.q_proj.bias [16]", ".attn.k_proj.bias [16]", ".attn.v_proj.bias [16]",
                             ".attn.c_proj.weight [16, 16]", ".attn.c_proj.bias [16]"})
      lines += prefix + line + " " + writer + "\n";
    return lines;
  };
  const auto maps = [](const std::string& prefix, const std::string& writer) {
    std::string lines;
    for (const char* line : {"c_fc.weight [24, 16]", "c_fc.bias [24]", "c_proj.weight [16, 24]", "c_proj.bias [16]"})
      lines += prefix + ".mlp." + line + " " + writer + "\n";
    return lines;
  };
  const auto norm = [](const std::string& name, const std::string& writer) {
    return name + ".weight [16] " + writer + "\n" + name + ".bias [16] " + writer + "\n";
  };
  EXPECT_EQ(unit(0),
            "transformer.wte.weight [37, 16] lookup\n"
            "transformer.wpe.weight [8, 16] lookup\n");
  for (std::size_t layer = 0; layer < 5; ++layer) {
    const std::string prefix = "transformer.h." + std::to_string(layer);
    EXPECT_EQ(unit(1 + 2 * layer), attention(prefix, "unit"));
    EXPECT_EQ(unit(2 + 2 * layer), norm(prefix + ".ln_2", "unit") + maps(prefix, "unit"));
  }
  const auto end = [&](const std::string& exit) { return norm(exit + ".norm", "head") + exit + ".head.weight [37, 16] head\n"; };
  EXPECT_EQ(head(0), "exits.1.head.weight [37, 16] head\n");
  EXPECT_EQ(head(1), end("exits.2"));
  EXPECT_EQ(head(2), norm("transformer.h.2.ln_2", "head") + maps("exits.3", "head") + end("exits.3"));
  EXPECT_EQ(head(3),
            attention("exits.4.block", "head") + norm("exits.4.block.ln_2", "head") + maps("exits.4.block", "head") + end("exits.4"));
  EXPECT_EQ(head(4), attention("exits.5.block", "head") + end("exits.5"));
  EXPECT_EQ(head(5), norm("transformer.ln_f", "head") + "lm_head.weight [37, 16] head\n");
}

TEST(Names, OfGpt2WithTiedEmbeddings) {
  ModelConfig config = tiny_config("gpt2");
  config.tie_word_embeddings = true;
  Model model = build_model(config, std::vector<ExitSpec>{{.layer = 2, .shared_output = true, .shared_norm = true}});
  for (Head& head : model.heads)
    EXPECT_EQ(describe([&](const Visitor& v) { head.visit(v); }),
              "transformer.ln_f.weight [16] head\ntransformer.ln_f.bias [16] head\ntransformer.wte.weight [37, 16] head\n");
}

TEST(Names, OfTiesAndShares) {
  std::vector<ExitSpec> exits = every_exit();
  for (ExitSpec& exit : exits) exit.shared_output = exit.shared_norm = true;
  ModelConfig config = tiny_config();
  Model model = build_model(config, exits);
  EXPECT_EQ(describe([&](const Visitor& v) { model.heads[0].visit(v); }), "lm_head.weight [37, 16] head\n");
  EXPECT_EQ(describe([&](const Visitor& v) { model.heads[1].visit(v); }), "model.norm.weight [16] head\nlm_head.weight [37, 16] head\n");
  config.tie_word_embeddings = true;
  Model tied = build_model(config, exits);
  for (const std::size_t head : {1u, 5u}) {
    EXPECT_EQ(describe([&](const Visitor& v) { tied.heads[head].visit(v); }),
              "model.norm.weight [16] head\nmodel.embed_tokens.weight [37, 16] head\n");
  }
}

TEST(Model, TapsAndOrderOfHeads) {
  std::vector<ExitSpec> exits = every_exit();
  std::swap(exits[0], exits[4]);
  const Model model = build_model(tiny_config(), exits);
  const std::vector<int> taps{2, 4, 5, 8, 10, 10};  // the mlp head reads layer 3's attention
  for (std::size_t i = 0; i < taps.size(); ++i) EXPECT_EQ(model.heads[i].tap(), taps[i]) << i;
  const ExitSpec& final = model.heads.back().spec();
  EXPECT_EQ(final.layer, 5);
  EXPECT_EQ(final.head, HeadKind::norm);
  EXPECT_EQ(final.loss_weight, 1);
}

TEST(Model, LearningRateScalesAreOfOwnTensorsOnly) {
  for (const bool shared : {false, true}) {
    std::vector<ExitSpec> exits = every_exit();
    for (ExitSpec& exit : exits) exit.lr_scale = 3, exit.shared_norm = exit.shared_output = shared;
    Model model = build_model(tiny_config(), exits);
    int own = 0;
    visit_all(model, [&](Parameter& p) {
      for (const Piece& piece : p.pieces) EXPECT_EQ(p.lr_scale, piece.name.starts_with("exits.") ? 3 : 1) << piece.name;
      own += p.lr_scale == 3;
    });
    EXPECT_EQ(own, shared ? 11 : 20);  // 2 + 6 + 3 matrices and norms of the bodies; 4 norms and 5 output matrices
  }
}

TEST(Model, UnknownArchitectureIsTheUsersMistake) {
  ModelConfig config = tiny_config();
  config.architecture = "mamba";
  try {
    build_model(config, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::configuration);
    EXPECT_NE(std::string(e.what()).find("mamba"), std::string::npos) << e.what();
  }
}

TEST(Model, ExitsMustBeOnALayer) {
  for (const int layer : {0, 6}) EXPECT_THROW(build_model(tiny_config(), std::vector<ExitSpec>{{.layer = layer}}), Error);
}

// Every element of every logical tensor lies in exactly one place of its parameter, and the other way round.
TEST(Pieces, CoverEverythingOnce) {
  Model model = build_model(tiny_config(), every_exit());
  visit_all(model, [](Parameter& p) {
    std::vector<int> local(static_cast<std::size_t>(p.shape.elements()));
    for (const Piece& piece : p.pieces) {
      std::vector<int> global(static_cast<std::size_t>(piece.global.elements()));
      runs(piece, [&](const auto& run) {
        for (std::int64_t i = 0; i < run.count; ++i) {
          ++local.at(static_cast<std::size_t>(run.local + i));
          ++global.at(static_cast<std::size_t>(run.global + i));
        }
      });
      EXPECT_EQ(global, std::vector<int>(global.size(), 1)) << piece.name;
    }
    EXPECT_EQ(local, std::vector<int>(local.size(), 1)) << p.name();
  });
}

using Logical = std::map<std::string, std::vector<float>>;

// A new model's logical tensors. Copies of one must have equal bits.
Logical initial(const ModelConfig& config, const std::vector<ExitSpec>& exits, std::uint64_t seed = 5) {
  Model model = build_model(config, exits);
  Arena arena(Backing::host, std::size_t{8} << 20);
  Logical all;
  visit_all(model, [&](Parameter& p) {
    p.value = arena.tensor(p.shape, DType::f32);
    initialize(p, p.value, seed);
    for (const Piece& piece : p.pieces) {
      std::vector<float> tensor(static_cast<std::size_t>(piece.global.elements()));
      runs(piece, [&](const auto& run) { std::copy_n(p.value.as<float>() + run.local, run.count, tensor.begin() + run.global); });
      const auto [it, fresh] = all.emplace(piece.name, tensor);
      EXPECT_TRUE(fresh || it->second == tensor) << piece.name;
    }
  });
  return all;
}

TEST(Initial, AddingExitsLeavesAllOtherTensors) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config();
    config.tie_word_embeddings = tied;
    const Logical without = initial(config, {}), with = initial(config, every_exit());
    for (const auto& [name, tensor] : without) EXPECT_EQ(with.at(name), tensor) << name;
    EXPECT_GT(with.size(), without.size());
    EXPECT_NE(without, initial(config, {}, 6));
  }
}

TEST(Initial, FusingDoesNotMatter) {
  const Logical fused = initial(tiny_config(), {});
  for (const std::string name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}) {
    const std::string full = "model.layers.3." + name + ".weight";
    const auto& tensor = fused.at(full);
    Arena arena(Backing::host, 1 << 16);
    const Shape shape{static_cast<std::int64_t>(tensor.size())};
    Parameter apart{.shape = shape, .pieces = {whole(full, shape)}, .value = arena.tensor(shape, DType::f32)};
    initialize(apart, apart.value, 5);
    EXPECT_EQ(values(apart.value), tensor) << full;
  }
}

// The rows of the fused matrix, by hand: group 1's key, value and second query head.
TEST(Initial, FusedRowsAreGroupMajor) {
  Rig rig(Backing::host);
  Model model = build_model(tiny_config(), {});
  const Logical logical = initial(tiny_config(), {});
  const auto rows = [](const std::vector<float>& t, std::ptrdiff_t first) {
    return std::vector<float>(t.begin() + first * 16, t.begin() + (first + 4) * 16);
  };
  model.units[1].module->visit([&](Parameter& p) {
    if (p.shape != Shape{32, 16}) return;
    p.value = rig.tensor(p.shape);
    initialize(p, p.value, 5);
    const std::vector<float> fused = values(p.value);
    EXPECT_EQ(rows(fused, 16), rows(logical.at("model.layers.0.self_attn.k_proj.weight"), 4));
    EXPECT_EQ(rows(fused, 20), rows(logical.at("model.layers.0.self_attn.v_proj.weight"), 4));
    EXPECT_EQ(rows(fused, 24), rows(logical.at("model.layers.0.self_attn.q_proj.weight"), 8));
    EXPECT_EQ(rows(fused, 28), rows(logical.at("model.layers.0.self_attn.q_proj.weight"), 12));
  });
}

TEST(Initial, Deviations) {
  Model model = build_model(tiny_config(), every_exit());
  visit_all(model, [](Parameter& p) {
    if (p.shape.rank == 1) {
      EXPECT_EQ(p.init.kind, Init::Kind::ones) << p.name();
      EXPECT_FALSE(p.decayed()) << p.name();
      return;
    }
    const bool residual = p.name().ends_with("o_proj.weight") || p.name().ends_with("down_proj.weight");
    EXPECT_EQ(p.init.kind, Init::Kind::normal) << p.name();
    EXPECT_DOUBLE_EQ(p.init.deviation, residual ? 0.02 / std::sqrt(10.0) : 0.02) << p.name();
    EXPECT_TRUE(p.decayed()) << p.name();
  });
}

TEST(Initial, DeviationsOfGpt2) {
  Model model = build_model(tiny_config("gpt2"), every_exit());
  visit_all(model, [](Parameter& p) {
    if (p.shape.rank == 1) {
      EXPECT_EQ(p.init.kind, p.name().ends_with(".bias") ? Init::Kind::zeros : Init::Kind::ones) << p.name();
      EXPECT_FALSE(p.decayed()) << p.name();
      return;
    }
    EXPECT_EQ(p.init.kind, Init::Kind::normal) << p.name();
    EXPECT_DOUBLE_EQ(p.init.deviation, p.name().ends_with("c_proj.weight") ? 0.02 / std::sqrt(10.0) : 0.02) << p.name();
    EXPECT_TRUE(p.decayed()) << p.name();
  });
}

TEST(Model, Gpt2HasNoRotationTable) {
  Rig rig(Backing::host);
  Model model = build_model(tiny_config("gpt2"), {});
  const std::size_t before = rig.memory.used();
  model.prepare(rig.ctx, rig.memory);
  EXPECT_EQ(model.rope_table, nullptr);
  EXPECT_EQ(rig.memory.used(), before);
}

TEST(Model, PreparesTheRotationTable) {
  Rig rig(Backing::host);
  Model model = build_model(tiny_config(), {});
  model.prepare(rig.ctx, rig.memory);
  ASSERT_EQ(model.rope_table->shape, (Shape{8, 4}));
  EXPECT_FLOAT_EQ(model.rope_table->as<float>()[3 * 4 + 1], static_cast<float>(std::cos(3 * 0.01)));  // 10000^(-2/4)
  EXPECT_FLOAT_EQ(model.rope_table->as<float>()[3 * 4 + 2], static_cast<float>(std::sin(3.0)));
}

}  // namespace
}  // namespace offramp::testing
