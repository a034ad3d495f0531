// Which tensors the channels of an axis are in, and what order they are put in.
#include "models/channels.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

ModelConfig small(const std::string& architecture) {
  ModelConfig m{.architecture = architecture, .num_hidden_layers = 3, .hidden_size = 12, .intermediate_size = 20};
  m.num_attention_heads = 6;
  m.num_key_value_heads = m.gpt2() ? 6 : 3;
  m.head_dim = m.gpt2() ? 0 : 4;  // heads that are together wider than the residual stream
  m.vocab_size = 17, m.max_position_embeddings = 8;
  return m;
}

Model with_exits(const std::string& architecture, bool tied, const Space& space) {
  ModelConfig config = small(architecture);
  config.tie_word_embeddings = tied;
  const std::vector<ExitSpec> exits = {{.layer = 1, .head = HeadKind::block},
                                       {.layer = 2, .head = HeadKind::mlp},
                                       {.layer = 3, .head = HeadKind::norm, .shared_output = true}};
  return build_model(config, exits, {.space = space});
}

std::map<std::string, Shape> shapes_of(Model& model) {
  std::map<std::string, Shape> shapes;
  const Visitor note = [&](Parameter& p) {
    for (const Piece& piece : p.pieces) shapes[piece.name] = piece.global;
  };
  for (Unit& unit : model.units) unit.module->visit(note);
  for (Head& head : model.heads) head.visit(note);
  return shapes;
}

// "name axis width" of all parts; a tensor's axis is there once.
std::set<std::string> parts_of(const Channels& channels) {
  std::set<std::string> parts;
  for (const ChannelPart& p : channels.parts)
    EXPECT_TRUE(parts.insert(fmt::format("{} {} {}", p.tensor, p.axis, p.width)).second) << p.tensor;
  return parts;
}

TEST(ElasticChannels, OnlyOfAxesWithSeveralSizes) {
  Model model = with_exits("llama", false, {.num_hidden_layers = {1, 2, 3}, .hidden_size = {12}});
  EXPECT_TRUE(elastic_channels(model).empty());
}

TEST(ElasticChannels, OfEachLayerAndOfExitsOwn) {
  Model model = with_exits("llama", false, {.intermediate_size = {10, 20}, .num_key_value_heads = {1, 3}, .queries_per_group = {1, 2}});
  const std::vector<Channels> all = elastic_channels(model);
  ASSERT_EQ(all.size(), 4u * 2 + 5);  // attentions of three layers and a block; MLPs, one exit's besides
  EXPECT_EQ(all[0].axis, "queries_per_group");
  EXPECT_EQ(all[0].segments, 3);
  EXPECT_EQ(all[0].count, 2);
  const std::string attention = "model.layers.0.self_attn.", mlp = "exits.2.mlp.";
  EXPECT_EQ(parts_of(all[0]), (std::set{attention + "q_proj.weight 0 4", attention + "o_proj.weight 1 4"}));
  EXPECT_EQ(parts_of(all[1]), (std::set{attention + "q_proj.weight 0 8", attention + "k_proj.weight 0 4", attention + "v_proj.weight 0 4",
                                        attention + "o_proj.weight 1 8"}));
  EXPECT_EQ(parts_of(all.back()), (std::set{mlp + "gate_proj.weight 0 1", mlp + "up_proj.weight 0 1", mlp + "down_proj.weight 1 1"}));
}

TEST(ElasticChannels, BiasesBelongToThem) {
  Model model = with_exits("gpt2", false, {.intermediate_size = {10, 20}, .num_key_value_heads = {3, 6}});
  const std::vector<Channels> all = elastic_channels(model);
  const std::string layer = "transformer.h.0.";
  EXPECT_EQ(parts_of(all[0]), (std::set{layer + "attn.q_proj.weight 0 2", layer + "attn.q_proj.bias 0 2", layer + "attn.k_proj.weight 0 2",
                                        layer + "attn.k_proj.bias 0 2", layer + "attn.v_proj.weight 0 2", layer + "attn.v_proj.bias 0 2",
                                        layer + "attn.c_proj.weight 1 2"}));
  EXPECT_EQ(parts_of(all[1]), (std::set{layer + "mlp.c_fc.weight 0 1", layer + "mlp.c_fc.bias 0 1", layer + "mlp.c_proj.weight 1 1"}));
}

// Every tensor reads or writes the residual stream, but for biases of what is inside a layer.
TEST(ElasticChannels, ResidualStreamIsInEveryTensorOnce) {
  for (const char* architecture : {"llama", "gpt2"})
    for (const bool tied : {false, true}) {
      Model model = with_exits(architecture, tied, {.hidden_size = {6, 12}});
      const std::vector<Channels> all = elastic_channels(model);
      ASSERT_EQ(all.size(), 1u);
      std::map<std::string, int> axis;
      for (const ChannelPart& p : all[0].parts) EXPECT_TRUE(axis.emplace(p.tensor, p.axis).second) << p.tensor;
      for (const auto& [name, shape] : shapes_of(model)) {
        if (axis.contains(name)) {
          EXPECT_EQ(shape[axis.at(name)], 12) << name;
          continue;
        }
        const bool inside =
            name.ends_with("q_proj.bias") || name.ends_with("k_proj.bias") || name.ends_with("v_proj.bias") || name.ends_with("c_fc.bias");
        EXPECT_TRUE(inside) << name;
      }
    }
}

TEST(Channels, MagnitudesOfAllLines) {
  std::vector<double> importance(2, 0.5);
  const std::vector<float> lines = {1, -2, 3, -4, 10, 20, -30, 40};
  add_magnitudes(importance, lines, {.tensor = "", .axis = 1, .width = 2});
  EXPECT_EQ(importance, (std::vector<double>{0.5 + 33, 0.5 + 77}));
  EXPECT_THROW(add_magnitudes(importance, std::span(lines).first(6), {.tensor = "", .axis = 1, .width = 2}), Error);
}

TEST(Channels, MostImportantFirstAndEqualOnesAsTheyWere) {
  const Channels channels{.axis = "", .segments = 2, .count = 3};
  EXPECT_EQ(order_by_importance(channels, std::vector<double>{1, 3, 3, 9, 8, 9}), (std::vector<std::int64_t>{1, 2, 0, 3, 5, 4}));
}

TEST(Channels, LinesInAnOrder) {
  const std::vector<std::int64_t> order = element_order(std::vector<std::int64_t>{2, 0, 1}, 2);
  EXPECT_EQ(order, (std::vector<std::int64_t>{4, 5, 0, 1, 2, 3}));
  std::vector<float> lines = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15};
  permute_lines(lines, order);
  EXPECT_EQ(lines, (std::vector<float>{4, 5, 0, 1, 2, 3, 14, 15, 10, 11, 12, 13}));
}

}  // namespace
}  // namespace offramp
